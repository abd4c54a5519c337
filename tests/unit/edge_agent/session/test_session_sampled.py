"""The session loop at temperatures above 0: a target and a draft given by logits, coupled by noise."""

import time
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.api import GenerationRequest, GenerationStats, Sampling, SessionMode
from edge_agent.control import FixedParameters, PolicyParameters
from edge_agent.drafting import DraftThread
from edge_agent.sampling import Pickers, SampledPicker
from edge_agent.session import CollaborativeSession, ControlPlane, generate_locally
from edge_agent.testing import FakeConnector, FakeDrafter, FakeTransport, fake_welcome
from edge_agent.tracing import NullRecorder
from edge_agent.verifier import ConnectionPool
from pipesd_vllm.wire import FP64_NOISE, Identity, Open, Welcome, fingerprint

from ..conftest import VOCABULARY

PROMPT = (5, 17, 42)
PARAMETERS = PolicyParameters(
    sequence_threshold=0.3, token_threshold=0.2, max_ahead=12, patience_ms=500, max_window=4
)
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 20},
    {"temperature": 1.0, "min_p": 0.05, "presence_penalty": 0.8, "repetition_penalty": 1.2},
    {"temperature": 0.0, "frequency_penalty": 1.0, "logit_bias": {3: 2.0}},
]


def target_logits(tokens: Sequence[int]) -> NDArray[np.float32]:
    """Any fixed function of the last tokens."""
    rng = np.random.default_rng([tokens[-1], tokens[-2]])
    return rng.normal(0.0, 2.0, len(VOCABULARY)).astype(np.float32)


def draft_logits(tokens: Sequence[int], error: float) -> NDArray[np.float32]:
    rng = np.random.default_rng([7, tokens[-1], tokens[-2]])
    return target_logits(tokens) + rng.normal(0.0, error, len(VOCABULARY)).astype(np.float32)


def settings(fields: dict[str, object], max_tokens: int = 40, seed: int = 9) -> Sampling:
    seed_field = {"seed": seed} if fields["temperature"] else {}
    return Sampling(max_tokens, **fields | seed_field)  # type: ignore[arg-type]


def target_next(sampling: Sampling, tokens: Sequence[int], *, fp64_noise: bool = False) -> int:
    picker = SampledPicker(sampling, len(PROMPT), fp64_noise=fp64_noise)
    return picker.pick(target_logits(tokens), tokens).token_id


def target_only(sampling: Sampling) -> list[int]:
    """What the target gives without any draft."""
    tokens = list(PROMPT)
    for _ in range(sampling.max_tokens):
        tokens.append(target_next(sampling, tokens))
    return tokens[len(PROMPT) :]


async def accept(welcome: Welcome) -> None:
    """Any server will do."""


def transport(sampling: Sampling, commits_before_loss: int = -1) -> FakeTransport:
    welcome = fake_welcome(fingerprint(VOCABULARY))
    return FakeTransport(
        lambda tokens: target_next(sampling, tokens), welcome, commits_before_loss=commits_before_loss
    )


async def collaborate(
    sampling: Sampling, error: float, *lines: FakeTransport, mode: SessionMode = SessionMode.OFFLOAD
) -> tuple[list[int], GenerationStats]:
    """The text and the figures of a session whose draft is off by `error` (a deviation of logits)."""
    worker = DraftThread(FakeDrafter(lambda tokens: draft_logits(tokens, error), VOCABULARY))
    pool = ConnectionPool(FakeConnector(lines), accept, 1.0)
    plane = ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), time.monotonic)
    control = plane.start_session("r", len(PROMPT), "adaptive", mode, sampled=sampling.temperature > 0)
    wanted = GenerationRequest("r", PROMPT, sampling)
    session = CollaborativeSession(wanted, pool, worker, lambda: control, time.monotonic)
    try:
        tokens = [token async for chunk in session.run() for token in chunk.token_ids]
    finally:
        await pool.close()
        await worker.close()
    return tokens, session.stats


@pytest.mark.parametrize("fields", SETTINGS, ids="-".join)
@pytest.mark.parametrize("error", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("mode", [SessionMode.OFFLOAD, SessionMode.LATENCY])
async def test_the_text_is_that_of_the_target_alone(
    fields: dict[str, object], error: float, mode: SessionMode
) -> None:
    """With the same seed, good, fair and useless drafts all give the target's own text."""
    sampling = settings(fields)
    tokens, _ = await collaborate(sampling, error, transport(sampling), mode=mode)
    assert tokens == target_only(sampling)


@pytest.mark.parametrize("fields", SETTINGS, ids="-".join)
async def test_a_draft_with_the_target_s_logits_is_never_rejected(fields: dict[str, object]) -> None:
    """The edge picks under the same parameters and the same noise: with equal logits, the same tokens."""
    sampling = settings(fields)
    _, stats = await collaborate(sampling, 0.0, transport(sampling))
    assert stats.acceptance_rate == 1.0


async def test_drafts_have_the_target_s_form_of_the_noise() -> None:
    """A server that draws in fp64 says so in its first frame; in fp32 most of these would be rejected."""
    sampling = settings({"temperature": 1.0})
    identity = Identity("hub:1", noise=FP64_NOISE)
    welcome = msgspec.structs.replace(fake_welcome(fingerprint(VOCABULARY)), identity=identity)
    line = FakeTransport(lambda tokens: target_next(sampling, tokens, fp64_noise=True), welcome)
    _, stats = await collaborate(sampling, 0.0, line)
    assert stats.acceptance_rate == 1.0


async def test_noise_that_is_shared_saves_drafts() -> None:
    """A good draft is accepted far more often than two independent samples would agree."""
    sampling = settings({"temperature": 1.0}, max_tokens=200)
    _, stats = await collaborate(sampling, 0.1, transport(sampling))
    assert stats.acceptance_rate is not None
    assert stats.acceptance_rate > 0.6


async def test_a_session_taken_over_goes_on_with_the_same_noise() -> None:
    """Noise is keyed by position: a text resumed on another server has no seam at any temperature."""
    sampling = settings(SETTINGS[2])
    first, second = transport(sampling, commits_before_loss=3), transport(sampling)
    tokens, _ = await collaborate(sampling, 0.5, first, second)
    assert tokens == target_only(sampling)
    resumed = next(message for message in second.sent if isinstance(message, Open))
    assert resumed.sampling == sampling
    assert resumed.committed


@pytest.mark.parametrize("fields", SETTINGS, ids="-".join)
async def test_the_draft_alone_samples_as_the_target_would(fields: dict[str, object]) -> None:
    """The local route with the target's logits and seed gives the target's text."""
    sampling = settings(fields)
    worker = DraftThread(FakeDrafter(target_logits, VOCABULARY))
    wanted = GenerationRequest("r", PROMPT, sampling)
    choice = await Pickers().choose(wanted)
    chunks = generate_locally(wanted, worker, choice, (), GenerationStats(), time.monotonic)
    tokens = [token async for chunk in chunks for token in chunk.token_ids]
    await worker.close()
    assert tokens == target_only(sampling)
