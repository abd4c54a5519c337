"""The plugin's routes and the life of a turn, on a running server."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import httpx
import psutil
import pytest
from tokenizers import Tokenizer

from pipesd_vllm.wire import INFO_PATH, TOKENIZER_PATH, Cancel, Commit, Draft, Mode, fingerprint
from tests.conftest import Verifier

from .session_client import (
    DEADLINE_S,
    Edge,
    cut_short,
    edge_of,
    metric,
    opening,
    plain_tokens,
    until,
    until_idle,
    until_running,
)

pytestmark = pytest.mark.engine

PROMPT = [504, 2365, 282, 260, 1838, 314]


@pytest.fixture(scope="module")
def truth(verifier: Verifier) -> list[int]:
    """The plain continuation of `PROMPT`."""
    return plain_tokens(verifier, PROMPT, 24)


# -- routes -------------------------------------------------------------------------------


def get(verifier: Verifier, path: str, headers: dict[str, str]) -> httpx.Response:
    return httpx.get(verifier.base_url + path, headers=headers, timeout=DEADLINE_S, trust_env=False)


@pytest.mark.parametrize("path", [INFO_PATH, TOKENIZER_PATH])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_routes_need_the_key(verifier: Verifier, path: str, headers: dict[str, str]) -> None:
    """Neither route tells a stranger anything."""
    assert get(verifier, path, headers).status_code == 401


async def test_info(verifier: Verifier) -> None:
    """The info route and the greeting of a connection tell the same about the target."""
    info = get(verifier, INFO_PATH, verifier.headers).json()
    async with edge_of(verifier) as edge:
        welcome = edge.welcome
    assert info["model"] == welcome.model == verifier.model
    assert info["max_model_len"] == welcome.max_model_len == 2048
    assert info["vocab_size"] == welcome.vocab_size == 49152
    assert info["protocol_version"] == welcome.version == 2
    assert info["fingerprint"]["sha256"] == welcome.fingerprint.sha256
    assert info["limits"]["max_drafts"] == welcome.limits.max_drafts > 0
    assert info["vllm_version"].startswith("0.32")


def test_tokenizer(verifier: Verifier) -> None:
    """The tokenizer it hands out is the server's own: same vocabulary, same ids for the same text."""
    body = get(verifier, TOKENIZER_PATH, verifier.headers).json()
    tokenizer = Tokenizer.from_str(body["tokenizer_json"])
    expected = get(verifier, INFO_PATH, verifier.headers).json()["fingerprint"]
    own = fingerprint(tokenizer.id_to_token(token) or "" for token in range(expected["num_tokens"]))
    assert own.sha256 == expected["sha256"]
    text = "def naïve(日本語): return 🙂\n"
    url = f"{verifier.base_url}/tokenize"
    answer = httpx.post(url, json={"model": verifier.model, "prompt": text}, trust_env=False)
    assert tokenizer.encode(text).ids == answer.json()["tokens"]
    assert "messages" in body["chat_template"]
    assert tokenizer.id_to_token(body["eos_token_ids"][0]) == body["special_tokens"]["eos_token"]


COUNTERS = (
    "pipesd_turns_total",
    "pipesd_target_passes_total",
    "pipesd_committed_tokens_total",
    "pipesd_draft_tokens_received_total",
    "pipesd_draft_tokens_verified_total",
    "pipesd_draft_tokens_accepted_total",
    "pipesd_step_seconds_count",
    "pipesd_queue_seconds_count",
    "pipesd_own_seconds_count",
)


async def test_metrics(verifier: Verifier, truth: list[int]) -> None:
    """A turn of ten tokens in two passes moves the plugin's counters by just that."""
    async with edge_of(verifier) as edge:
        await edge.generate(PROMPT, 1)
        await until_idle(verifier)
        before = [await metric(verifier, name) for name in COUNTERS]
        await edge.send(opening(PROMPT, 10))
        await edge.commit(1)
        await edge.send(Draft(1, 1, len(PROMPT) + 1, 0, [*truth[1:9], 7]))
        await edge.rest_of(1, len(PROMPT) + 1)

        async def counted() -> bool:
            after = [await metric(verifier, name) for name in COUNTERS]
            moved = [new - old for new, old in zip(after, before, strict=True)]
            # Of its own code the plugin times two parts of each pass, and a third where a frame asked for it.
            expected = [1, 2, 10, 9, 8, 8, 2, 2, 5]
            return moved == expected and await metric(verifier, "pipesd_connections") == 1

        await until(counted, DEADLINE_S, "counting a turn")


# -- a turn -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", Mode)
async def test_commits_say_what_was_drafted(verifier: Verifier, truth: list[int], mode: Mode) -> None:
    """The counters of a turn's frames add up to its tokens: one a pass, and one for each draft kept."""
    async with edge_of(verifier) as edge:
        await edge.send(opening(PROMPT, 24, mode=mode), Draft(1, 1, len(PROMPT), 0, [*truth[:11], 3, 3]))
        commits = [await edge.commit(1)]
        while commits[-1].finish_reason is None:
            base = commits[-1].base + len(commits[-1].tokens)
            done = base - len(PROMPT)
            await edge.send(Draft(1, 100 * len(commits), base, 0, truth[done : done + 8]))
            commits.append(await edge.commit(1))
    passes, accepted = sum(c.passes for c in commits), sum(c.accepted for c in commits)
    assert [token for commit in commits for token in commit.tokens] == truth
    assert passes + accepted == len(truth)
    assert accepted > 0
    assert sum(c.drafted for c in commits) >= accepted
    assert all(commit.step_ms > 0 and commit.queue_ms >= 0 for commit in commits)


async def test_an_offloaded_turn_waits(verifier: Verifier, truth: list[int]) -> None:
    """After the first token nothing comes without drafts; unverified ones wait for the flag."""
    async with edge_of(verifier) as edge:
        await edge.send(opening(PROMPT, 24))
        first = await edge.commit(1)
        assert first.tokens == truth[:1]
        await edge.send(Draft(1, 1, len(PROMPT) + 1, 0, truth[1:3], verify=False))
        with pytest.raises(TimeoutError):
            await edge.receive(timeout_s=1.0)
        await edge.send(Draft(1, 3, len(PROMPT) + 3, 2, truth[3:5], verify=True))
        assert (await edge.commit(1)).tokens == truth[1:6]


async def frames_until_end_of(edge: Edge, turn: int) -> list[Commit]:
    """All frames up to the last of `turn`, those of other turns included."""
    frames: list[Commit] = []
    while not frames or frames[-1].turn != turn or frames[-1].finish_reason is None:
        message = await edge.receive()
        assert isinstance(message, Commit)
        frames.append(message)
    return frames


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "superseded"])
async def test_a_turn_that_is_not_wanted_any_more(
    verifier: Verifier, truth: list[int], mode: Mode, cancelled: bool
) -> None:
    """Cancelled or followed by another, a turn is over: no frame of it comes after one of the next."""
    async with edge_of(verifier) as edge, cut_short(verifier, num_completed_within=1):
        await edge.send(opening(PROMPT, 2000, turn=1, mode=mode, patience_ms=20))
        await edge.commit(1)
        if cancelled:
            await edge.send(Cancel(1))
        await edge.send(opening(PROMPT, 12, turn=2, mode=Mode.LATENCY))
        frames = await frames_until_end_of(edge, turn=2)
    turns = [frame.turn for frame in frames]
    assert turns == sorted(turns)
    assert all(frame.finish_reason is None for frame in frames if frame.turn == 1)
    assert [token for frame in frames if frame.turn == 2 for token in frame.tokens] == truth[:12]


async def frames_until_silence(edge: Edge) -> list[Commit]:
    """What is under way, until nothing comes for a moment."""
    frames: list[Commit] = []
    with suppress(TimeoutError):
        while True:
            message = await edge.receive(timeout_s=0.3)
            assert isinstance(message, Commit)
            frames.append(message)
    return frames


@pytest.mark.parametrize("mode", Mode)
async def test_cancel(verifier: Verifier, mode: Mode) -> None:
    """A cancelled turn leaves the engine at once, and then its connection is silent."""
    async with edge_of(verifier) as edge:
        async with cut_short(verifier):
            await edge.send(opening(PROMPT, 2000, mode=mode, patience_ms=20))
            await edge.commit(1)
            await until_running(verifier, 1)
            await edge.send(Cancel(1))
        assert all(frame.finish_reason is None for frame in await frames_until_silence(edge))


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("broken", [True, False], ids=["broken off", "closed"])
async def test_an_edge_that_leaves(verifier: Verifier, mode: Mode, broken: bool) -> None:
    """A connection that ends in mid-turn ends the request in the engine, however it ends."""
    async with edge_of(verifier) as edge, cut_short(verifier):
        await edge.send(opening(PROMPT, 2000, mode=mode, patience_ms=20))
        await edge.commit(1)
        await until_running(verifier, 1)
        if broken:
            edge.break_off()
        else:
            await edge.socket.close()


# -- idle sessions ------------------------------------------------------------------------


SETTLE_S = 1.5
"""vLLM's worker polls for about a second after each step before it sleeps."""


async def core_share(verifier: Verifier, seconds: float = 3.0) -> float:
    """Share of one core that the server's processes use for `seconds`, once they have settled."""
    parent = psutil.Process(verifier.process.pid)
    processes = [parent, *parent.children(recursive=True)]

    def used_s() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    await asyncio.sleep(SETTLE_S)
    before_s = used_s()
    await asyncio.sleep(seconds)
    return (used_s() - before_s) / seconds


async def test_an_engine_with_idle_sessions_sleeps(verifier: Verifier) -> None:
    """Three turns that wait for drafts, their KV kept, cost no more CPU than an empty server."""

    async def sleeps() -> bool:
        await until_idle(verifier)
        empty = await core_share(verifier)
        async with edge_of(verifier) as one, edge_of(verifier) as two, edge_of(verifier) as three:
            for edge in (one, two, three):
                await edge.send(opening(PROMPT, 24))
                await edge.commit(1)
            await until_running(verifier, 3)
            return await core_share(verifier) < empty + 0.05

    # Sampled before parked turns are suspended (5 s), so each attempt opens them anew.
    await until(sleeps, DEADLINE_S, "sleeping with three parked turns")
    await until_idle(verifier)
