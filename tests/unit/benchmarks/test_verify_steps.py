"""Steps that verify several sessions at once, with a verifier in memory."""

import pytest

from benchmarks.verify_steps import joint_step_ms, measure_step_ms
from edge_agent.fake_transport import FakeConnector, FakeTransport, fake_welcome
from openai_gateway.cli.errors import CliError
from pipesd_vllm.protocol import Commit, Draft, Open, fingerprint

WELCOME = fake_welcome(fingerprint([f"t{i}" for i in range(300)]))


def commit(step_ms: float, passes: int = 1) -> Commit:
    return Commit(1, 0, [5], passes=passes, step_ms=step_ms)


def test_a_joint_step_is_known_by_its_time() -> None:
    """Its sessions report the same time but for moments; several steps do not."""
    assert joint_step_ms([commit(60.0), commit(60.2)]) == 60.2
    assert joint_step_ms([commit(60.0), commit(20.0)]) is None
    assert joint_step_ms([commit(60.0), commit(60.0, passes=2)]) is None


async def test_all_sessions_draft_in_each_round() -> None:
    """One session more than measured goes ahead; each frame has as many drafts as asked for."""
    lines = [FakeTransport(lambda tokens: 100 + len(tokens) % 7, WELCOME) for _ in range(4)]
    assert await measure_step_ms(FakeConnector(lines), 3, 5, 1.0, 6) == 0.0
    for number, line in enumerate(lines):
        [opened] = [message for message in line.sent if isinstance(message, Open)]
        assert (opened.sampling.seed, opened.sampling.temperature) == (number, 1.0)
        drafts = [message for message in line.sent if isinstance(message, Draft)]
        assert len(drafts) == 6 + 3
        assert {len(message.tokens) for message in drafts} == {5}
        assert not line.is_open


async def test_steps_that_never_are_joint_give_no_figure() -> None:
    """On a machine where sessions do not meet in one step there is nothing to report."""
    lines = [FakeTransport(lambda tokens: 100, WELCOME) for _ in range(3)]
    for number, line in enumerate(lines):
        for _ in range(20):
            line.push(commit(20.0 * (number + 1)))
    with pytest.raises(CliError, match="Only 0 of 6 steps"):
        await measure_step_ms(FakeConnector(lines), 2, 2, 0.0, 6)
