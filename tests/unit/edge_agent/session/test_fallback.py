"""The draft model goes on alone, on a real drafting thread and a verifier in memory that goes away."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent import EdgeAgent
from edge_agent.api import (
    AWAY,
    BUSY,
    LOST,
    Fallback,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Route,
    Sampling,
    SessionMode,
    Source,
    TokenizerBundle,
)
from edge_agent.control import FixedParameters, PolicyParameters
from edge_agent.drafting import DraftThread
from edge_agent.errors import CloudError, CloudMisbehaved, CloudOverloaded, CloudUnreachable
from edge_agent.sampling import DraftToken, SampledPicker
from edge_agent.session import ControlPlane, unless_away
from edge_agent.testing import FakeDrafter, FakeTransport, fake_tokenizer_bundle, fake_welcome
from edge_agent.tracing import NullRecorder
from edge_agent.verifier import CloudApi
from pipesd_vllm.wire import (
    INFO_PATH,
    NO_SEED,
    TOKENIZER_PATH,
    Commit,
    Downstream,
    Open,
    RefusalCode,
    Refused,
    Structure,
    StructureKind,
    Upstream,
    fingerprint,
)

from ..conftest import VOCABULARY, target_next, target_text
from .conftest import HastyLoop

LOOP = HastyLoop
PROMPT = (5, 17, 42)
FINGERPRINT = fingerprint(VOCABULARY)
BUNDLE = fake_tokenizer_bundle(["x"], num_merges=0)
PARAMETERS = PolicyParameters(
    sequence_threshold=0.3, token_threshold=0.2, max_ahead=12, patience_ms=500, max_window=4
)
MakeDrafter = Callable[..., FakeDrafter]
MakeAgent = Callable[..., EdgeAgent]


class Verifier:
    """What the agent connects to: `lines` one after the other, while it `answers`; counts what was tried."""

    def __init__(self, *lines: FakeTransport, answers: bool = True) -> None:
        self.lines = list(lines)
        self.answers = answers
        self.num_connects = 0
        self.requests: list[str] = []
        self.info = info()

    async def connect(self) -> FakeTransport:
        self.num_connects += 1
        if not self.lines or not self.answers:
            raise CloudUnreachable("no verifier answers here")
        return self.lines.pop(0)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request.url.path)
        if not self.answers:
            raise httpx.ConnectError("refused")
        bodies = {INFO_PATH: self.info, TOKENIZER_PATH: tokenizer()}
        return httpx.Response(200, content=msgspec.json.encode(bodies[request.url.path]))


def info() -> dict[str, object]:
    print_ = {"num_tokens": FINGERPRINT.num_tokens, "sha256": FINGERPRINT.sha256}
    return {"model": "org/target", "max_model_len": 4096, "vocab_size": 100, "fingerprint": print_}


def tokenizer() -> dict[str, object]:
    return {
        "tokenizer_json": BUNDLE.tokenizer_json,
        "chat_template": BUNDLE.chat_template,
        "special_tokens": BUNDLE.special_tokens,
        "eos_token_ids": [],
    }


def own_tokenizer() -> TokenizerBundle:
    return TokenizerBundle(BUNDLE.tokenizer_json, "own template", {}, ())


def line(commits_before_loss: int = -1) -> FakeTransport:
    return FakeTransport(target_next, fake_welcome(FINGERPRINT), commits_before_loss=commits_before_loss)


def request(route: Route = Route.COLLABORATIVE, max_tokens: int = 30, **sampling: Any) -> GenerationRequest:
    return GenerationRequest("r", PROMPT, Sampling(max_tokens, **sampling), route)


@pytest.fixture
async def make_agent(make_drafter: MakeDrafter, tmp_path: Path) -> AsyncIterator[MakeAgent]:
    """`make_agent(verifier, fallback)`: an agent of that verifier; its draft errs at every seventh place."""
    agents = []

    def make(
        verifier: Verifier, fallback: Fallback = Fallback.LOCAL, drafter: FakeDrafter | None = None
    ) -> EdgeAgent:
        worker = DraftThread(drafter or make_drafter(7))
        api = CloudApi("http://verifier", None, 1.0, tmp_path, httpx.MockTransport(verifier.handle))
        control = ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), lambda: 0.0)
        agent = EdgeAgent(
            worker,
            verifier,
            api,
            control,
            mode=SessionMode.OFFLOAD,
            fallback=fallback,
            own_tokenizer=own_tokenizer,
            draw_bits=lambda num_bits: num_bits,
        )
        agents.append(agent)
        return agent

    yield make
    for agent in agents:
        await agent.close()


async def collect(agent: EdgeAgent, wanted: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in agent.generate(wanted)]


async def collect_into(seen: list[GenerationChunk], agent: EdgeAgent) -> None:
    async for chunk in agent.generate(request()):
        seen.append(chunk)  # noqa: PERF401 - keeps what precedes a failure


def tokens_of(chunks: Sequence[GenerationChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


def draft_text(tokens: Sequence[int], num_tokens: int) -> list[int]:
    """What the draft of these tests writes alone."""
    text = list(tokens)
    for _ in range(num_tokens):
        right = target_next(text)
        text.append((right + 1) % 100 if len(text) % 7 == 0 else right)
    return text[len(tokens) :]


async def test_never_there(make_agent: MakeAgent) -> None:
    """Out of reach from the start: the draft model's text, every token of it unverified."""
    agent = make_agent(Verifier())
    chunks = await collect(agent, request())
    assert tokens_of(chunks) == draft_text(PROMPT, 30)
    assert {source for chunk in chunks for source in chunk.sources} == {Source.UNVERIFIED}
    stats = chunks[-1].stats
    assert (stats.route, stats.route_reason, stats.verified) == (Route.LOCAL, AWAY, False)
    assert stats.unverified_tokens == stats.completion_tokens == 30


async def test_lost_in_mid_answer(make_agent: MakeAgent) -> None:
    """Lost for good: the text up to the loss is the target's, the rest the draft's, and marked so."""
    agent = make_agent(Verifier(line(commits_before_loss=3)))
    chunks = await collect(agent, request())
    verified = tokens_of([chunk for chunk in chunks if chunk.verified])
    assert verified
    assert verified == target_text(PROMPT, len(verified))
    assert tokens_of(chunks) == verified + draft_text((*PROMPT, *verified), 30 - len(verified))
    first = next(index for index, chunk in enumerate(chunks) if not chunk.verified)
    assert not any(chunk.verified for chunk in chunks[first:])
    stats = chunks[-1].stats
    assert (stats.route_reason, stats.unverified_tokens) == (LOST, 30 - len(verified))
    assert chunks[-1].finish_reason is FinishReason.LENGTH


async def test_aborted_in_mid_answer(make_agent: MakeAgent) -> None:
    """A verifier that shuts down under an answer leaves the rest to the draft model."""
    aborting, begun = line(), target_text(PROMPT, 4)
    aborting.push(Commit(1, len(PROMPT), begun, finish_reason="abort"))
    chunks = await collect(make_agent(Verifier(aborting)), request())
    assert tokens_of(chunks) == begun + draft_text((*PROMPT, *begun), 26)
    assert (chunks[-1].stats.route_reason, chunks[-1].stats.unverified_tokens) == (LOST, 26)


def logits(tokens: Sequence[int]) -> NDArray[np.float32]:
    """Those of target and draft alike: any fixed function of the last tokens."""
    rng = np.random.default_rng([tokens[-1], tokens[-2]])
    return rng.normal(0.0, 2.0, len(VOCABULARY)).astype(np.float32)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0, "seed": 9},
        {"temperature": 1.0, "seed": 9, "presence_penalty": 2.0, "repetition_penalty": 1.5},
        {"frequency_penalty": 2.0},
        {"min_tokens": 12, "stop_token_ids": list(range(0, 100, 2))},
    ],
    ids="-".join,
)
async def test_sampling_goes_on_where_it_was(make_agent: MakeAgent, sampling: dict[str, Any]) -> None:
    """After the loss noise, penalties and the least length count from the same prompt as before it."""
    wanted = request(**sampling)
    target = SampledPicker(wanted.sampling, len(PROMPT))
    text = list(PROMPT)
    while len(text) < len(PROMPT) + 30 and not {*text[len(PROMPT) :]} & {*wanted.sampling.stop_token_ids}:
        text.append(target.pick(logits(text), text).token_id)
    line = FakeTransport(
        lambda tokens: SampledPicker(wanted.sampling, len(PROMPT)).pick(logits(tokens), tokens).token_id,
        fake_welcome(FINGERPRINT),
        commits_before_loss=2,
    )
    chunks = await collect(make_agent(Verifier(line), drafter=FakeDrafter(logits, VOCABULARY)), wanted)
    assert tokens_of(chunks) == text[len(PROMPT) :]
    assert 0 < chunks[-1].stats.unverified_tokens < len(text) - len(PROMPT)


async def test_collaborative_again_as_soon_as_it_answers(make_agent: MakeAgent) -> None:
    """The next request tries the verifier anew, and is the target's own again."""
    verifier = Verifier(line(), answers=False)
    agent = make_agent(verifier)
    assert (await collect(agent, request()))[-1].stats.route is Route.LOCAL
    verifier.answers = True
    chunks = await collect(agent, request())
    assert tokens_of(chunks) == target_text(PROMPT, 30)
    assert chunks[-1].stats.route is Route.COLLABORATIVE
    assert all(chunk.verified for chunk in chunks)


@pytest.mark.parametrize("commits", [None, 3])
async def test_error(make_agent: MakeAgent, commits: int | None) -> None:
    """With `error` the answer ends in the agent's exception, before or after its first tokens."""
    agent = make_agent(Verifier(*([] if commits is None else [line(commits)])), Fallback.ERROR)
    seen: list[GenerationChunk] = []
    with pytest.raises(CloudUnreachable):
        await collect_into(seen, agent)
    assert tokens_of(seen) == target_text(PROMPT, len(tokens_of(seen)))
    assert bool(seen) is (commits is not None)


class Later(Verifier):
    """Does not answer for the first `num_failures` attempts after each line."""

    def __init__(self, *lines: FakeTransport, num_failures: int) -> None:
        super().__init__(*lines)
        self._num_failures = self._left = num_failures

    async def connect(self) -> FakeTransport:
        if self._left:
            self._left -= 1
            self.num_connects += 1
            raise CloudUnreachable("not yet")
        self._left = self._num_failures
        return await super().connect()


async def test_wait(make_agent: MakeAgent) -> None:
    """With `wait` the answer goes on when the verifier is back, at the start and in the middle: no seam."""
    second = line()
    verifier = Later(
        line(commits_before_loss=2), second, num_failures=4
    )  # more than a resume tries otherwise
    agent = make_agent(verifier, Fallback.WAIT)
    chunks = await collect(agent, request())
    assert tokens_of(chunks) == target_text(PROMPT, 30)
    assert all(chunk.verified for chunk in chunks)
    assert verifier.num_connects == 10
    assert any(isinstance(message, Open) and message.committed for message in second.sent)


Trouble = Sequence[CloudError | FakeTransport]


class Script(Verifier):
    """Each connection is the next of `happens`, an error or a line; an error that is the last is repeated."""

    def __init__(self, *happens: CloudError | FakeTransport) -> None:
        super().__init__(line())
        self._happens = list(happens)

    async def connect(self) -> FakeTransport:
        self.num_connects += 1
        event = self._happens[0]
        if not isinstance(event, CloudError) or len(self._happens) > 1:
            self._happens.pop(0)
        if isinstance(event, CloudError):
            raise event
        return event


class Deaf(FakeTransport):
    """A line that breaks as the turn is sent."""

    def __init__(self) -> None:
        super().__init__(target_next, fake_welcome(FINGERPRINT))

    async def send(self, message: Upstream) -> int:
        if isinstance(message, Open):
            raise CloudUnreachable("the connection to the verifier was lost")
        return await super().send(message)


class Mute(FakeTransport):
    """A line that breaks before the server has introduced itself."""

    def __init__(self) -> None:
        super().__init__(target_next, fake_welcome(FINGERPRINT))

    async def receive(self) -> tuple[Downstream, int]:
        raise CloudUnreachable("the connection to the verifier was lost")


def full() -> FakeTransport:
    """A server that has no room for the turn."""
    transport = line()
    transport.push(Refused(1, RefusalCode.OVERLOADED, "too many turns"))
    return transport


REFUSED = CloudUnreachable("no verifier answers here")
BUSY_NOW = CloudOverloaded("too many sessions", 0.05)


HANDSHAKES: dict[str, Callable[[], Trouble]] = {
    "refused": lambda: [REFUSED],
    "refused twice": lambda: [REFUSED, REFUSED],
    "no welcome": lambda: [Mute()],
    "no opening": lambda: [Deaf()],
    "neither": lambda: [Mute(), Deaf()],
}


async def answers(
    make_agent: MakeAgent, cases: Sequence[tuple[Trouble, Fallback]]
) -> list[list[GenerationChunk]]:
    """One answer for each case, all at once: each trouble is a connection, then comes a line that works."""
    agents = [make_agent(Script(*trouble, line()), fallback) for trouble, fallback in cases]
    return list(await asyncio.gather(*(collect(agent, request()) for agent in agents)))


async def test_a_lost_handshake_costs_nothing(make_agent: MakeAgent) -> None:
    """A first connection that fails once or twice: the answer is the target's, whatever the fallback."""
    cases = [(trouble(), fallback) for trouble in HANDSHAKES.values() for fallback in Fallback]
    for chunks in await answers(make_agent, cases):
        assert tokens_of(chunks) == target_text(PROMPT, 30)
        assert chunks[-1].stats.route is Route.COLLABORATIVE


async def test_wait_waits_however_it_fails(make_agent: MakeAgent) -> None:
    """More failures than any bound allows, of every kind, at the start and later: a whole answer comes."""
    troubles: list[Callable[[], Trouble]] = [
        lambda: [REFUSED] * 5,
        lambda: [Deaf() for _ in range(5)],
        lambda: [Mute() for _ in range(5)],
        lambda: [BUSY_NOW] * 5,
    ]
    at_start = [trouble() for trouble in troubles]
    begun = [[line(commits_before_loss=3), *trouble()] for trouble in troubles]
    for chunks in await answers(make_agent, [(trouble, Fallback.WAIT) for trouble in (*at_start, *begun)]):
        assert tokens_of(chunks) == target_text(PROMPT, 30)


async def test_wait_waits_when_a_running_turn_is_opened_again(
    make_agent: MakeAgent, make_drafter: MakeDrafter
) -> None:
    """Drafts end, the turn is opened again without them, and just then one line after the other is gone."""

    class Once(FakeTransport):
        num_opened = 0

        async def send(self, message: Upstream) -> int:
            self.num_opened += isinstance(message, Open)
            if self.num_opened > 1:
                raise CloudUnreachable("the connection to the verifier was lost")
            return await super().send(message)

    first = Once(target_next, fake_welcome(FINGERPRINT))
    verifier = Script(first, Deaf(), Deaf(), line())
    agent = make_agent(verifier, Fallback.WAIT, make_drafter(context_length=16))
    assert tokens_of(await collect(agent, request())) == target_text(PROMPT, 30)


async def test_overloaded_in_mid_answer_is_tried_again(make_agent: MakeAgent) -> None:
    """A 429 as the turn is resumed, or a turn that is not admitted, ends no answer under any fallback."""
    troubles: list[Callable[[], Trouble]] = [lambda: [BUSY_NOW] * 2, lambda: [full(), full()]]
    cases = [
        ([line(commits_before_loss=3), *trouble()], fallback) for trouble in troubles for fallback in Fallback
    ]
    for chunks in await answers(make_agent, cases):
        assert tokens_of(chunks) == target_text(PROMPT, 30)
        assert all(chunk.verified for chunk in chunks)


async def test_overloaded_for_good(make_agent: MakeAgent) -> None:
    """`local` goes on alone and says why, `error` is a typed error, before the answer and in its middle."""
    for before, reason in ([], BUSY), ([line(commits_before_loss=3)], LOST):
        chunks = await collect(make_agent(Script(*before, BUSY_NOW)), request())
        assert chunks[-1].stats.route_reason == reason
        assert len(tokens_of(chunks)) == 30
    for before, num_tried in ([], 1), ([line(commits_before_loss=3)], 4):
        verifier = Script(*before, BUSY_NOW)
        with pytest.raises(CloudOverloaded):
            await collect(make_agent(verifier, Fallback.ERROR), request())
        assert verifier.num_connects == num_tried + len(before) - bool(before)


async def test_another_target_in_mid_answer_leaves_the_rest_to_the_draft(make_agent: MakeAgent) -> None:
    """What one target began no other goes on with: the rest is the draft model's, and marked."""
    other = msgspec.structs.replace(fake_welcome(FINGERPRINT), model="successor")
    verifier = Script(line(commits_before_loss=3), FakeTransport(target_next, other))
    chunks = await collect(make_agent(verifier), request())
    verified = tokens_of([chunk for chunk in chunks if chunk.verified])
    assert verified == target_text(PROMPT, len(verified))
    assert tokens_of(chunks) == verified + draft_text((*PROMPT, *verified), 30 - len(verified))
    assert chunks[-1].stats.route_reason == LOST
    assert chunks[-1].stats.unverified_tokens == 30 - len(verified)


class Buggy(FakeTransport):
    """Fails with what nobody expects as the answer is read."""

    async def receive(self) -> tuple[Downstream, int]:
        message, num_bytes = await super().receive()
        if isinstance(message, Commit):
            raise ZeroDivisionError("a bug")
        return message, num_bytes


async def test_a_bug_while_reading_is_an_error(make_agent: MakeAgent) -> None:
    """Nobody waits for ever for an answer that is not read any more."""
    agent = make_agent(Verifier(Buggy(target_next, fake_welcome(FINGERPRINT))))
    with pytest.raises(CloudMisbehaved, match="ZeroDivisionError") as caught:
        await asyncio.wait_for(collect(agent, request()), 20.0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_a_connection_does_not_wait_for_the_draft_model(make_agent: MakeAgent) -> None:
    """While the draft model is in a long call, a new connection is checked and used all the same."""
    loop, calling, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def slow(tokens: Sequence[int]) -> DraftToken:
        loop.call_soon_threadsafe(calling.set)
        assert go_on.wait(60)
        return DraftToken(0, 0.9)

    first, second = line(), line()
    agent = make_agent(Verifier(first, second), drafter=FakeDrafter(slow, VOCABULARY))
    await agent.warm_up()
    await first.close()
    local = asyncio.create_task(collect(agent, request(Route.LOCAL, max_tokens=1)))
    try:
        await asyncio.wait_for(calling.wait(), 20.0)
        await asyncio.wait_for(agent.warm_up(), 20.0)
        assert not local.done()
    finally:
        go_on.set()
    assert len(tokens_of(await local)) == 1


async def test_a_prompt_that_the_draft_cannot_hold(make_agent: MakeAgent, make_drafter: MakeDrafter) -> None:
    """If the draft model cannot take over either, the answer says what is missing: the verifier."""
    agent = make_agent(Verifier(), drafter=make_drafter(context_length=2))
    with pytest.raises(CloudUnreachable):
        await collect(agent, request())


async def test_local_opens_no_connection(make_agent: MakeAgent) -> None:
    """The route `local` asks neither the socket nor the HTTP routes for anything, first request or later."""
    verifier = Verifier(line())
    agent = make_agent(verifier)
    for _ in range(2):
        target = await agent.target(offline=True)
        bundle = await agent.tokenizer(offline=True)
        chunks = await collect(agent, request(Route.LOCAL))
        assert (target.is_known, bundle.chat_template) == (False, "own template")
        assert tokens_of(chunks) == draft_text(PROMPT, 30)
        assert (chunks[-1].stats.route, chunks[-1].stats.route_reason) == (Route.LOCAL, "asked for")
    assert (verifier.num_connects, verifier.requests) == (0, [])


@pytest.mark.parametrize(
    "sampling",
    [
        {"structure": Structure(StructureKind.JSON_OBJECT)},
        {"bad_words": ("x",)},
        {"min_tokens": 2},
    ],
    ids=lambda sampling: next(iter(sampling)),
)
async def test_local_asks_nobody_for_a_tokenizer(make_agent: MakeAgent, sampling: dict[str, Any]) -> None:
    """Parameters that need a tokenizer get the one at hand, even in the process's very first request."""
    verifier = Verifier(line())
    await collect(make_agent(verifier), request(Route.LOCAL, **sampling))
    assert (verifier.num_connects, verifier.requests) == (0, [])


async def test_what_the_draft_alone_does_not_follow(make_agent: MakeAgent) -> None:
    """The local route says which sampling parameters it leaves out."""
    agent = make_agent(Verifier())
    chunks = await collect(agent, request(Route.LOCAL, temperature=0.7, bad_words=["no"], logprobs=2))
    assert chunks[-1].stats.ignored == ("logprobs",)
    broken = Structure(StructureKind.REGEX, "(unclosed")
    for wanted in (request(Route.LOCAL, structure=broken), request(structure=broken)):
        assert (await collect(agent, wanted))[-1].stats.ignored == ("response_format",)
    assert (await collect(agent, request(Route.LOCAL)))[-1].stats.ignored == ()


async def test_a_temperature_without_a_seed_gets_one(make_agent: MakeAgent) -> None:
    """The agent draws the seed that the client did not give, and the figures name it."""
    agent = make_agent(Verifier())
    for none in ({}, {"seed": NO_SEED}):
        chunks = await collect(agent, request(Route.LOCAL, temperature=0.7, **none))
        assert chunks[-1].stats.seed == 53
        assert (await collect(agent, request(Route.LOCAL, **none)))[-1].stats.seed is None


async def test_more_local_answers_than_the_draft_has_room_for(
    make_agent: MakeAgent, make_drafter: MakeDrafter
) -> None:
    """They wait for one another instead of failing."""
    agent = make_agent(Verifier(), drafter=make_drafter(7, max_sequences=2))
    answers = await asyncio.gather(*(collect(agent, request(Route.LOCAL)) for _ in range(6)))
    assert [tokens_of(chunks) for chunks in answers] == [draft_text(PROMPT, 30)] * 6


async def test_drafted_and_corrected(make_agent: MakeAgent) -> None:
    """Every committed token says whether the edge had sent it; what was accepted was sent."""
    chunks = await collect(make_agent(Verifier(line())), request())
    sources = [source for chunk in chunks for source in chunk.sources]
    assert len(sources) == 30
    assert sources.count(Source.DRAFTED) >= chunks[-1].stats.draft_tokens_accepted > 0
    assert sources.count(Source.CORRECTED) > 0


async def test_names_and_tokenizer_of_an_earlier_run(make_agent: MakeAgent) -> None:
    """An agent that starts without its verifier knows the target of the run before."""
    verifier = Verifier(line())
    earlier = make_agent(verifier)
    known = await earlier.target()
    bundle = await earlier.tokenizer()
    verifier.answers = False
    later = make_agent(verifier)
    assert await later.target() == known
    assert await later.tokenizer() == bundle
    assert known.is_known
    assert await make_agent(verifier).target(offline=True) == known


async def test_nothing_remembered(make_agent: MakeAgent) -> None:
    """In the very first run the draft model stands in, until the verifier answers."""
    verifier = Verifier(line(), answers=False)
    agent = make_agent(verifier)
    stand_in = await agent.target()
    assert (stand_in.model, stand_in.is_known, stand_in.max_model_len) == ("fake", False, 1024)
    assert (await agent.tokenizer()).chat_template == "own template"
    verifier.answers = True
    assert (await agent.target()).model == "org/target"
    assert (await agent.tokenizer()).chat_template == BUNDLE.chat_template


async def test_another_draft_does_not_use_what_is_remembered(make_agent: MakeAgent) -> None:
    """The remembered tokenizer is of no use to a draft with another vocabulary."""
    verifier = Verifier()
    earlier = make_agent(verifier)
    await earlier.target()
    await earlier.tokenizer()
    verifier.answers = False
    foreign = FakeDrafter(lambda tokens: DraftToken(0, 0.5), ["a", *VOCABULARY])
    assert not (await make_agent(verifier, drafter=foreign).target()).is_known


async def test_error_needs_the_verifier(make_agent: MakeAgent) -> None:
    """With `error` nothing stands in for the target."""
    agent = make_agent(Verifier(answers=False), Fallback.ERROR)
    with pytest.raises(CloudUnreachable):
        await agent.target()
    with pytest.raises(CloudUnreachable):
        await agent.tokenizer()


@pytest.mark.parametrize("before", [{}, {"model": "org/other"}, {"max_model_len": 2048}], ids=str)
async def test_another_target_behind_the_same_url(make_agent: MakeAgent, before: dict[str, object]) -> None:
    """A new connection shows that the server was restarted with another model: it is asked anew, else not."""
    now = info() | {"model": "fake-target"}
    verifier = Verifier(line())
    verifier.info = now | before
    agent = make_agent(verifier)
    await agent.target()
    bundle = await agent.tokenizer()
    verifier.info = now
    await collect(agent, request())
    target = await agent.target()
    assert (target.model, target.max_model_len) == (now["model"], now["max_model_len"])
    assert (await agent.tokenizer() is bundle) is (not before)
    assert len(verifier.requests) == (4 if before else 2)


async def away() -> str:
    raise CloudUnreachable("no route")


async def there() -> str:
    return "target"


async def test_a_verifier_that_is_away_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """An error where the setting says so; else a warning, and the agent starts without."""
    assert await unless_away(there(), Fallback.ERROR) == "target"
    with pytest.raises(CloudUnreachable, match="no route"):
        await unless_away(away(), Fallback.ERROR)
    assert await unless_away(away(), Fallback.WAIT) is None
    assert "the setting 'fallback' applies: no route" in caplog.text
