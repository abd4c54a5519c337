"""Sessions under random drafts, with a verifier in memory."""

from __future__ import annotations

import random

import pytest

from benchmarks.matrix.session import run_session
from edge_agent.errors import CloudMisbehaved
from edge_agent.fake_transport import FakeConnector, FakeTransport, fake_welcome
from edge_agent.generation import SamplingSettings
from pipesd_vllm.protocol import Commit, Draft, Open, fingerprint

PROMPT = [1, 2, 3]
NUM_TOKENS = 40
WELCOME = fake_welcome(fingerprint([f"t{i}" for i in range(64)]))


def next_token(tokens: object) -> int:
    return len(tokens) * 7 % 50 + 4  # type: ignore[arg-type]


def truth() -> list[int]:
    tokens = list(PROMPT)
    for _ in range(NUM_TOKENS):
        tokens.append(next_token(tokens))
    return tokens[len(PROMPT) :]


@pytest.mark.parametrize("number", range(20))
async def test_the_stream_is_the_target_s_and_crosses_connections(number: int) -> None:
    """Whatever is drafted, all tokens come once and in order, the second half on a connection of its own."""
    lines = [FakeTransport(next_token, WELCOME) for _ in range(2)]
    run = await run_session(
        FakeConnector(lines), PROMPT, SamplingSettings(NUM_TOKENS), truth(), random.Random(number)
    )
    assert run.tokens == truth()
    assert run.finished
    assert run.rebuilt
    assert not any(line.is_open for line in lines)
    [again] = [message for message in lines[1].sent if isinstance(message, Open)]
    assert again.committed
    assert again.committed == truth()[: len(again.committed)]
    assert any(isinstance(message, Draft) for line in lines for message in line.sent)


async def test_a_gap_in_the_stream_is_an_error() -> None:
    """Tokens that do not follow the last ones are not taken."""
    line = FakeTransport(next_token, WELCOME)
    line.push(Commit(1, len(PROMPT) + 1, [9]))
    with pytest.raises(CloudMisbehaved, match="position 4, not at 3"):
        await run_session(
            FakeConnector([line]), PROMPT, SamplingSettings(NUM_TOKENS), truth(), random.Random(1)
        )
