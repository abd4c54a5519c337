"""The session loop on a real drafting thread and a verifier in memory."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

import msgspec
import pytest

from edge_agent.api import FinishReason, GenerationRequest, Sampling, SessionMode
from edge_agent.control import POLICY_NAMES, FixedParameters, PolicyParameters
from edge_agent.drafting import DraftThread
from edge_agent.errors import (
    CloudError,
    CloudMisbehaved,
    CloudRefused,
    CloudUnreachable,
    ModelError,
    PairingError,
)
from edge_agent.sampling import DraftToken
from edge_agent.session import CollaborativeSession, ControlPlane
from edge_agent.session.turn import TurnLost
from edge_agent.testing import FakeConnector, FakeDrafter, FakeTransport, fake_welcome
from edge_agent.tracing import NullRecorder
from edge_agent.verifier import ConnectionPool, check_pairing
from pipesd_vllm.wire import (
    Cancel,
    Commit,
    Control,
    Downstream,
    Draft,
    Open,
    RefusalCode,
    Refused,
    Upstream,
    Welcome,
    fingerprint,
)

from ..conftest import VOCABULARY, target_next, target_text

PROMPT = (5, 17, 42)
WELCOME = fake_welcome(fingerprint(VOCABULARY))
PARAMETERS = PolicyParameters(
    sequence_threshold=0.3, token_threshold=0.2, max_ahead=12, patience_ms=500, max_window=4
)


def request(max_tokens: int = 40) -> GenerationRequest:
    return GenerationRequest("r", PROMPT, Sampling(max_tokens))


def transport(commits_before_loss: int = -1) -> FakeTransport:
    return FakeTransport(target_next, WELCOME, commits_before_loss=commits_before_loss)


class Bench:
    """A worker and a pool around given transports."""

    def __init__(self, drafter: FakeDrafter, *transports: FakeTransport) -> None:
        self.worker = DraftThread(drafter)
        self.pool = ConnectionPool(FakeConnector(transports), self._check, 1.0)

    async def _check(self, welcome: Welcome) -> None:
        draft = await self.worker.run(lambda drafter: drafter.fingerprint(welcome.fingerprint.num_tokens))
        check_pairing("fake", draft, welcome)

    def session(
        self, wanted: GenerationRequest, policy: str = "adaptive", mode: SessionMode = SessionMode.OFFLOAD
    ) -> CollaborativeSession:
        plane = ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), time.monotonic)
        control = plane.start_session("r", len(wanted.prompt_token_ids), policy, mode)
        return CollaborativeSession(wanted, self.pool, self.worker, lambda: control, time.monotonic)

    async def run(
        self, wanted: GenerationRequest, policy: str = "adaptive", mode: SessionMode = SessionMode.OFFLOAD
    ) -> tuple[list[int], CollaborativeSession, str | None]:
        session, tokens, reason = self.session(wanted, policy, mode), [], None
        try:
            async for chunk in session.run():
                tokens += chunk.token_ids
                reason = chunk.finish_reason
        finally:
            await self.pool.close()
            await self.worker.close()
        return tokens, session, reason


@pytest.mark.parametrize("mode", list(SessionMode))
@pytest.mark.parametrize("policy", POLICY_NAMES)
@pytest.mark.parametrize("wrong_every", [0, 2, 3, 7])
async def test_the_text_is_the_targets_whatever_the_draft(
    make_drafter: Callable[..., FakeDrafter], wrong_every: int, policy: str, mode: SessionMode
) -> None:
    """However often the draft errs, under every policy and mode: the target's own tokens, each once."""
    bench = Bench(make_drafter(wrong_every), transport())
    tokens, session, reason = await bench.run(request(), policy, mode)
    assert tokens == target_text(PROMPT, 40)
    assert reason == FinishReason.LENGTH
    assert session.stats.completion_tokens == 40
    assert session.stats.first_token_s is not None


class LateTransport(FakeTransport):
    """Keeps commits back until `release`, or until the edge waits for one."""

    def __init__(self, release: asyncio.Event) -> None:
        super().__init__(target_next, WELCOME)
        self._release = release

    async def send(self, message: Upstream) -> int:
        if isinstance(message, Draft) and message.verify:
            self._release.set()
        return await super().send(message)

    async def receive(self) -> tuple[Downstream, int]:
        message, num_bytes = await super().receive()
        if isinstance(message, Commit):
            await self._release.wait()
        return message, num_bytes


@pytest.mark.parametrize("num_before", range(6))
@pytest.mark.parametrize("policy", POLICY_NAMES)
async def test_the_first_commit_may_come_at_any_draft(policy: str, num_before: int) -> None:
    """A first token that agrees with drafts not sent yet: drafting goes on to the next trigger."""
    loop, release, shown = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def next_token(tokens: Sequence[int]) -> DraftToken:
        if len(tokens) - len(PROMPT) >= num_before:
            loop.call_soon_threadsafe(release.set)
            assert shown.wait(20)
        return DraftToken(target_next(tokens), 0.9)

    bench = Bench(FakeDrafter(next_token, VOCABULARY), LateTransport(release))
    tokens: list[int] = []
    try:
        async with asyncio.timeout(20):
            async for chunk in bench.session(request(), policy).run():
                shown.set()
                tokens += chunk.token_ids
    finally:
        shown.set()
        await bench.pool.close()
        await bench.worker.close()
    assert tokens == target_text(PROMPT, 40)


async def test_a_good_draft_saves_passes(make_drafter: Callable[..., FakeDrafter]) -> None:
    """With a draft that is always right, four tokens and a bonus come from one pass."""
    _, session, _ = await Bench(make_drafter(), transport()).run(request(41))
    assert session.stats.acceptance_rate == 1.0
    assert session.stats.passes_per_token is not None
    assert session.stats.passes_per_token < 0.45


async def test_a_lost_connection_is_resumed_where_it_broke(
    make_drafter: Callable[..., FakeDrafter],
) -> None:
    """The second connection gets the prompt and what was committed; the text has no seam."""
    first, second = transport(commits_before_loss=3), transport()
    tokens, _, _ = await Bench(make_drafter(5), first, second).run(request())
    assert tokens == target_text(PROMPT, 40)
    resumed = next(message for message in second.sent if isinstance(message, Open))
    assert resumed.committed
    assert resumed.committed == target_text(PROMPT, len(resumed.committed))


class RepeatingTransport(FakeTransport):
    """Sends every commit but the last twice; `said` has each once."""

    said: list[Commit]

    def push(self, frame: Downstream | CloudError) -> None:
        super().push(frame)
        if isinstance(frame, Commit):
            self.said = [*getattr(self, "said", []), frame]
            if frame.finish_reason is None:
                super().push(frame)


async def test_a_commit_that_comes_twice_is_counted_once(make_drafter: Callable[..., FakeDrafter]) -> None:
    """Its passes and drafts are those of the frame before."""
    line = RepeatingTransport(target_next, WELCOME)
    tokens, session, _ = await Bench(make_drafter(3), line).run(request(), "vanilla")
    assert tokens == target_text(PROMPT, 40)
    stats = session.stats
    assert stats.target_passes == sum(commit.passes for commit in line.said)
    assert stats.draft_tokens_verified == sum(commit.drafted for commit in line.said)
    assert stats.draft_tokens_accepted == sum(commit.accepted for commit in line.said)
    assert stats.draft_tokens_verified <= stats.draft_tokens_sent


def aborting(*tokens: int) -> FakeTransport:
    """A verifier that shuts down as soon as it has committed `tokens`."""
    line = transport()
    line.push(Commit(1, len(PROMPT), list(tokens), finish_reason="abort"))
    return line


async def test_an_answer_that_the_server_aborts_is_resumed(make_drafter: Callable[..., FakeDrafter]) -> None:
    """What was committed with the abort stays; another server goes on from there."""
    begun = target_text(PROMPT, 3)
    first, second = aborting(*begun), transport()
    tokens, _, reason = await Bench(make_drafter(5), first, second).run(request())
    assert tokens == target_text(PROMPT, 40)
    assert reason == FinishReason.LENGTH
    assert not first.is_open
    assert next(message for message in second.sent if isinstance(message, Open)).committed == begun


async def test_a_server_that_only_aborts_is_lost(make_drafter: Callable[..., FakeDrafter]) -> None:
    """Connections that bring the answer no further are not made for ever."""
    lines = [aborting() for _ in range(8)]
    with pytest.raises(CloudUnreachable, match="abort"):
        await Bench(make_drafter(), *lines).run(request())
    assert sum(bool(line.sent) for line in lines) == 4


@pytest.mark.parametrize("num_begun", [0, 3])
async def test_an_answer_is_never_two_targets(
    make_drafter: Callable[..., FakeDrafter], num_begun: int
) -> None:
    """What one model began, another of the same vocabulary does not go on with."""
    other = msgspec.structs.replace(WELCOME, model="successor")
    first, second = aborting(*target_text(PROMPT, num_begun)), FakeTransport(target_next, other)
    running = Bench(make_drafter(), first, second).run(request())
    if num_begun:
        with pytest.raises(CloudUnreachable, match="fake-target began this answer; successor is there now"):
            await running
        assert not any(isinstance(message, Open) for message in second.sent)
    else:
        assert (await running)[0] == target_text(PROMPT, 40)


async def test_without_a_server_the_loss_is_reported(make_drafter: Callable[..., FakeDrafter]) -> None:
    """When no connection can be made again, the caller gets what was committed and a typed error."""
    bench = Bench(make_drafter(), transport(commits_before_loss=2))
    with pytest.raises(CloudUnreachable):
        await bench.run(request())


async def test_leaving_early_cancels_on_the_server(make_drafter: Callable[..., FakeDrafter]) -> None:
    """Closing the iterator tells the server, frees the sequence and keeps the connection."""
    line, drafter = transport(), make_drafter()
    bench = Bench(drafter, line)
    async with aclosing(bench.session(request(400)).run()) as stream:
        async for _ in stream:
            break
    assert isinstance(line.sent[-1], Cancel)
    again, _, _ = await bench.run(request(10))
    assert again == target_text(PROMPT, 10)
    assert len([m for m in line.sent if isinstance(m, Open)]) == 2


async def test_an_answer_longer_than_the_draft_context_is_drafted_to_its_end(
    make_drafter: Callable[..., FakeDrafter],
) -> None:
    """The draft model goes on after the first tokens and the last."""
    line = transport()
    tokens, _, _ = await Bench(make_drafter(context_length=32), line).run(request(120))
    assert tokens == target_text(PROMPT, 120)
    assert max(m.base for m in line.sent if isinstance(m, Draft)) > 100


async def test_a_draft_model_that_fails_hands_over_to_the_server(
    make_drafter: Callable[..., FakeDrafter],
) -> None:
    """The server is told to go alone, on the same turn, and later drafts are tried again."""
    line, drafter = transport(), make_drafter()
    calls = 0

    def failing(sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ModelError("llama.cpp failed")
        return FakeDrafter.draft(drafter, sequences)

    drafter.draft = failing  # type: ignore[method-assign]
    tokens, _, _ = await Bench(drafter, line).run(request(200))
    assert tokens == target_text(PROMPT, 200)
    assert any(isinstance(m, Control) and m.alone for m in line.sent)
    assert len([m for m in line.sent if isinstance(m, Open)]) == 1
    assert calls > 3


async def welcomed(welcome: Welcome) -> None:
    """A check that finds nothing, and waits for nobody."""


@pytest.mark.parametrize("mode", [SessionMode.AUTO, SessionMode.LATENCY, SessionMode.OFFLOAD])
async def test_tokens_do_not_wait_for_a_busy_drafting_thread(
    make_drafter: Callable[..., FakeDrafter], mode: SessionMode
) -> None:
    """While a model call for another chat runs, the answer is shown, in every mode."""
    bench, release = Bench(make_drafter()), threading.Event()
    bench.pool = ConnectionPool(FakeConnector([transport()]), welcomed, 1.0)
    busy = asyncio.create_task(bench.worker.run(lambda _: release.wait(20)))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        tokens = [token async for c in bench.session(request(), mode=mode).run() for token in c.token_ids]
    assert not busy.done()
    release.set()
    await busy
    await bench.pool.close()
    await bench.worker.close()
    assert tokens == target_text(PROMPT, 40)


async def test_every_chat_drafts_some_of_the_time(make_drafter: Callable[..., FakeDrafter]) -> None:
    """More chats than places in the draft model: they take turns."""
    num_chats = 6
    bench = Bench(make_drafter(max_sequences=2), *(transport() for _ in range(num_chats)))
    sessions = [bench.session(GenerationRequest("r", (i, 2, 3), Sampling(400))) for i in range(num_chats)]

    async def collect(session: CollaborativeSession) -> list[int]:
        return [token async for chunk in session.run() for token in chunk.token_ids]

    texts = await asyncio.gather(*map(collect, sessions))
    await bench.pool.close()
    await bench.worker.close()
    assert texts == [target_text((i, 2, 3), 400) for i in range(num_chats)]
    assert all(session.stats.draft_tokens_accepted for session in sessions)


async def test_a_turn_given_up_for_want_of_drafts_goes_on(make_drafter: Callable[..., FakeDrafter]) -> None:
    """A machine that slept through the server's patience gets its answer: the server goes on alone."""
    line = transport()
    line.push(Refused(1, RefusalCode.ABANDONED, "no drafts came; open the turn again"))
    tokens, _, _ = await Bench(make_drafter(), line).run(request())
    assert tokens == target_text(PROMPT, 40)
    assert len([m for m in line.sent if isinstance(m, Open)]) == 2
    assert any(isinstance(m, Control) and m.alone for m in line.sent)


async def test_a_prompt_too_long_for_the_draft_is_still_answered(
    make_drafter: Callable[..., FakeDrafter],
) -> None:
    """A draft without room for the prompt only costs speed."""
    tokens, _, _ = await Bench(make_drafter(context_length=2), transport()).run(request())
    assert tokens == target_text(PROMPT, 40)


def welcome(max_drafts: int) -> Welcome:
    limits = msgspec.structs.replace(WELCOME.limits, max_drafts=max_drafts)
    return msgspec.structs.replace(WELCOME, limits=limits)


async def test_a_server_that_checks_no_drafts_gets_none(make_drafter: Callable[..., FakeDrafter]) -> None:
    """It goes on alone; the edge does not wait for a check that will not come."""
    line = FakeTransport(target_next, welcome(0))
    tokens, _, _ = await Bench(make_drafter(), line).run(request())
    assert tokens == target_text(PROMPT, 40)
    assert not [m for m in line.sent if isinstance(m, Draft)]


@pytest.mark.parametrize(("max_drafts", "bound"), [(1, 1), (5, 5), (48, PARAMETERS.max_ahead)])
async def test_drafts_stay_within_the_bound(
    make_drafter: Callable[..., FakeDrafter], max_drafts: int, bound: int
) -> None:
    """No frame goes beyond the committed tokens by more than server and settings allow, or past the last."""

    class Watched(FakeTransport):
        frontier, furthest = len(PROMPT), 0

        def push(self, frame: Downstream | CloudError) -> None:
            if isinstance(frame, Commit):
                self.frontier = frame.base + len(frame.tokens)
            super().push(frame)

        async def send(self, message: Upstream) -> int:
            if isinstance(message, Draft):
                self.furthest = max(self.furthest, message.base + len(message.tokens) - self.frontier)
            return await super().send(message)

    line = Watched(target_next, welcome(max_drafts))
    await Bench(make_drafter(3), line).run(request(20))
    last = len(PROMPT) + 20
    assert all(m.base + len(m.tokens) <= last for m in line.sent if isinstance(m, Draft))
    assert 0 < line.furthest <= bound


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (Commit(1, 3, [1000]), CloudMisbehaved),
        (Commit(1, 99, [1]), CloudMisbehaved),
        (Refused(1, RefusalCode.PROMPT_TOO_LONG, "too long"), CloudRefused),
        (WELCOME, CloudMisbehaved),
    ],
    ids=["unknown id", "gap", "refused", "second welcome"],
)
async def test_a_server_that_misbehaves_is_a_typed_error(
    make_drafter: Callable[..., FakeDrafter], frame: object, error: type[Exception]
) -> None:
    """What cannot be placed raises; nothing of it reaches the caller."""
    line = transport()
    line.push(frame)  # type: ignore[arg-type]
    with pytest.raises(error):
        await Bench(make_drafter(), line).run(request())


async def test_a_foreign_vocabulary_is_refused_with_both_names(
    make_drafter: Callable[..., FakeDrafter],
) -> None:
    """Draft and target with different tokens never start a turn."""
    foreign = fake_welcome(fingerprint([*VOCABULARY[:-1], "other"]))
    line = FakeTransport(target_next, foreign)
    with pytest.raises(PairingError, match=r"fake.*fake-target"):
        await Bench(make_drafter(), line).run(request())


async def test_sessions_share_one_worker(make_drafter: Callable[..., FakeDrafter]) -> None:
    """Three conversations at once, one drafting thread: each gets its own text."""
    bench = Bench(make_drafter(3), transport(), transport(), transport())

    async def collect(first: int) -> list[int]:
        wanted = GenerationRequest("r", (first, 2, 3), Sampling(30))
        return [token async for chunk in bench.session(wanted).run() for token in chunk.token_ids]

    texts = await asyncio.gather(*(collect(first) for first in (1, 2, 3)))
    assert texts == [target_text((first, 2, 3), 30) for first in (1, 2, 3)]
    await bench.pool.close()
    await bench.worker.close()


async def test_what_was_read_before_the_turn_was_opened_again_is_passed_over(
    make_drafter: Callable[..., FakeDrafter],
) -> None:
    """A refusal that belongs to an earlier opening ends nothing."""
    bench = Bench(make_drafter(), transport())
    session = bench.session(request())
    session._events.put_nowait(TurnLost(session._turn.opening, CloudRefused("gone", "of the opening before")))
    chunks = [chunk async for chunk in session.run()]
    await bench.pool.close()
    await bench.worker.close()
    assert [token for chunk in chunks for token in chunk.token_ids] == target_text(PROMPT, 40)


class BusyTransport(FakeTransport):
    """Tells a cap with each commit from the second draft frame on; `later` are drafts sent after it."""

    def __init__(self, cap: int) -> None:
        super().__init__(target_next, WELCOME)
        self.cap = cap
        self.later: list[Draft] = []
        self._num_told = 0

    async def send(self, message: Upstream) -> int:
        if isinstance(message, Draft) and self._num_told > 2:
            self.later.append(message)
        return await super().send(message)

    async def receive(self) -> tuple[Downstream, int]:
        message, num_bytes = await super().receive()
        self._num_told += isinstance(message, Commit) and message.cap is not None
        return message, num_bytes

    def _emit(self, commit: Commit) -> None:
        is_busy = sum(isinstance(frame, Draft) for frame in self.sent) >= 2
        super()._emit(msgspec.structs.replace(commit, cap=self.cap if is_busy else None))


async def test_a_busy_server_is_sent_what_it_looks_at(make_drafter: Callable[..., FakeDrafter]) -> None:
    """Never more than twice the cap at a time; the text is the target's."""
    server = BusyTransport(cap=2)
    tokens, _, _ = await Bench(make_drafter(0), server).run(request(80))
    assert tokens == target_text(PROMPT, 80)
    assert server.later
    assert max(len(frame.tokens) for frame in server.later) <= 4
    assert any(frame.confidences for frame in server.later)


async def test_a_full_server_is_sent_no_drafts(make_drafter: Callable[..., FakeDrafter]) -> None:
    """With a cap of 0 the server is told to decode alone, and gets the drafts that were under way at most."""
    server = BusyTransport(cap=0)
    tokens, session, _ = await Bench(make_drafter(0), server).run(request())
    assert tokens == target_text(PROMPT, 40)
    assert Control(session._turn.number, alone=True) in server.sent
    assert sum(isinstance(frame, Draft) for frame in server.sent) <= 5
