"""The session loop with drafts that are looked up, alone and beside a model's."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

import pytest

from edge_agent.api import FinishReason, GenerationRequest, SessionMode, Source
from edge_agent.api import Sampling as Params
from edge_agent.control import FixedParameters, PolicyParameters
from edge_agent.drafting import DraftSource, DraftThread
from edge_agent.drafting.lookup import LookupRates, LookupSource
from edge_agent.sampling import DraftToken
from edge_agent.session import CollaborativeSession, ControlPlane
from edge_agent.testing import FakeConnector, FakeDrafter, FakeTransport, fake_welcome
from edge_agent.tracing import NullRecorder
from edge_agent.verifier import ConnectionPool
from pipesd_vllm.wire import Draft, Welcome, fingerprint

from ..conftest import VOCABULARY
from .conftest import HastyLoop

LOOP = HastyLoop

ORIGINAL = [random.Random(1).randrange(90) for _ in range(60)]
EDITED = [token if i % 17 else 91 for i, token in enumerate(ORIGINAL)]
PROMPT = (95, *ORIGINAL, 96)
WELCOME = fake_welcome(fingerprint(VOCABULARY))
PARAMETERS = PolicyParameters(
    sequence_threshold=0.3, token_threshold=0.2, max_ahead=12, patience_ms=500, max_window=4
)
NUM_TOKENS = 110


def copying(tokens: Sequence[int]) -> int:
    """The target: the original with some tokens replaced, over and over."""
    return EDITED[(len(tokens) - len(PROMPT)) % len(EDITED)]


TEXT = [EDITED[i % len(EDITED)] for i in range(NUM_TOKENS)]


def lookup(prompt: Sequence[int]) -> LookupSource:
    return LookupSource(prompt, LookupRates())


class Sources:
    """What `make` makes, without a thread."""

    def __init__(self, make: Callable[[Sequence[int]], DraftSource]) -> None:
        self.after = make

    def is_quick(self, _: int) -> bool:
        return True


async def nothing(_: Welcome) -> None:
    """Every target will do."""


async def answered(
    drafter: FakeDrafter | None,
    sources: Callable[[Sequence[int]], DraftSource] | None,
    mode: SessionMode = SessionMode.OFFLOAD,
    *,
    fits: bool = True,
    policy: str = "adaptive",
    losses: Sequence[int] = (),
) -> tuple[CollaborativeSession, list[Source], FakeTransport]:
    """The session after an answer, which must be the target's text, and where its tokens came from.

    The connection is lost after so many commits as each of `losses` says.
    """
    transports = [FakeTransport(copying, WELCOME, commits_before_loss=num) for num in (*losses, -1)]
    pool = ConnectionPool(FakeConnector(transports), nothing, 1.0)
    worker = None if drafter is None else DraftThread(drafter)
    plane = ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), time.monotonic)
    session = CollaborativeSession(
        GenerationRequest("r", PROMPT, Params(NUM_TOKENS)),
        pool,
        worker,
        lambda: plane.start_session("r", len(PROMPT), policy, mode),
        time.monotonic,
        fits=lambda _: fits,
        sources=None if sources is None else Sources(sources),
    )
    tokens: list[int] = []
    origins: list[Source] = []
    reason = None
    try:
        async with asyncio.timeout(20), aclosing(session.run()) as chunks:
            async for chunk in chunks:
                tokens += chunk.token_ids
                origins += chunk.sources
                reason = chunk.finish_reason
    finally:
        await pool.close()
        if worker is not None:
            await worker.close()
    assert tokens == TEXT
    assert reason is FinishReason.LENGTH
    return session, origins, transports[-1]


@pytest.mark.parametrize("mode", list(SessionMode))
@pytest.mark.parametrize("wrong_every", [0, 2, 5])
async def test_the_text_is_the_targets_and_some_of_it_was_looked_up(
    mode: SessionMode, wrong_every: int
) -> None:
    """Beside a model that errs, in every mode: each token once, runs of the source among them."""

    def draft(tokens: Sequence[int]) -> DraftToken:
        is_wrong = wrong_every and len(tokens) % wrong_every == 0
        return DraftToken(92, 0.5) if is_wrong else DraftToken(copying(tokens), 0.9)

    session, origins, _ = await answered(FakeDrafter(draft, VOCABULARY), lookup, mode)
    assert len(origins) == NUM_TOKENS
    if mode is SessionMode.OFFLOAD and wrong_every == 2:
        assert Source.LOOKED_UP in origins
        assert session.stats.target_passes < NUM_TOKENS / 2


async def test_without_a_model_lookup_drafts() -> None:
    session, origins, transport = await answered(None, lookup, SessionMode.LATENCY)
    assert Source.DRAFTED not in origins
    frames = [frame for frame in transport.sent if isinstance(frame, Draft)]
    assert frames or session.stats.target_passes == NUM_TOKENS
    most = 4 * WELCOME.limits.max_drafts
    assert max((len(frame.tokens) for frame in frames), default=0) <= most


async def test_a_model_of_another_vocabulary_drafts_nothing() -> None:
    def draft(tokens: Sequence[int]) -> DraftToken:
        raise AssertionError("asked although its vocabulary is another one")

    _, origins, _ = await answered(FakeDrafter(draft, VOCABULARY), lookup, SessionMode.LATENCY, fits=False)
    assert Source.DRAFTED not in origins


async def test_policies_of_the_literature_draft_with_the_model_only() -> None:
    drafter = FakeDrafter(lambda tokens: DraftToken(copying(tokens), 0.9), VOCABULARY)
    _, origins, _ = await answered(drafter, lookup, policy="pipesd")
    assert Source.LOOKED_UP not in origins


class _Scripted:
    """A source that says what `say(most)` does, whatever the text."""

    def __init__(self, say: Callable[[int], Sequence[int]]) -> None:
        self._say = say

    def follow(self, tokens: Sequence[int]) -> None:
        pass

    def extend(self, tokens: Sequence[int]) -> None:
        pass

    def propose(self, most: int, survival: float, least: float) -> Sequence[DraftToken]:
        return [DraftToken(token, 0.99, Source.LOOKED_UP) for token in self._say(most)]


def _fail(_: int) -> Sequence[int]:
    raise ZeroDivisionError


RNG = random.Random(2)
HOSTILE: dict[str, Callable[[int], Sequence[int]]] = {
    "lies": lambda most: [RNG.randrange(100) for _ in range(most)],
    "repeats itself": lambda most: [7] * most,
    "has nothing to say": lambda most: [],
    "says too much": lambda most: EDITED * 20,
    "says what is no token": lambda most: [EDITED[0], -1, 10**9],
    "one token at a time": lambda most: [91],
    "fails": _fail,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("mode", [SessionMode.OFFLOAD, SessionMode.LATENCY])
async def test_a_hostile_source_changes_no_token(name: str, mode: SessionMode) -> None:
    """Beside a good model, over lost connections."""
    drafter = FakeDrafter(lambda tokens: DraftToken(copying(tokens), 0.9), VOCABULARY)
    losses = (3, 2) if mode is SessionMode.OFFLOAD else ()
    await answered(drafter, lambda _: _Scripted(HOSTILE[name]), mode, losses=losses)


async def test_lost_connections_in_the_middle_of_runs() -> None:
    drafter = FakeDrafter(lambda tokens: DraftToken(92, 0.5), VOCABULARY)
    session, origins, _ = await answered(drafter, lookup, losses=(2, 1, 4))
    assert Source.LOOKED_UP in origins
    assert session.stats.completion_tokens == NUM_TOKENS
