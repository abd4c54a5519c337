"""Who is compared, by name."""

import pytest

from benchmarks.harness.rivals import EVERYBODY, Rival, Wire, parse_rivals, rival_parameters
from edge_agent.policies.base import PolicyParameters
from openai_gateway.cli.errors import CliError
from pipesd_vllm.protocol import Mode

OURS = PolicyParameters(0.3, 0.35, max_ahead=16, patience_ms=500, max_window=8)


def test_everybody() -> None:
    """The literature's four on both wires, ours in three modes, each end alone."""
    labels = [rival.label for rival in parse_rivals(EVERYBODY)]
    assert len(labels) == len(set(labels)) == 2 + 4 * 2 + 3
    assert {"cloud", "local", "hsl:published", "hsl:thin", "adaptive:latency"} <= set(labels)


def test_variants() -> None:
    """One variant is named with a colon; naming it twice changes nothing."""
    assert parse_rivals(["pipesd:thin", "adaptive:offload", "pipesd:thin"]) == [
        Rival("pipesd", Wire.THIN, Mode.OFFLOAD),
        Rival("adaptive", Wire.THIN, Mode.OFFLOAD),
    ]


@pytest.mark.parametrize("name", ["fastest", "pipesd:thick", "cloud:thin", ""])
def test_unknown(name: str) -> None:
    """A name that means nobody is refused."""
    with pytest.raises(CliError, match="There is no policy"):
        parse_rivals([name])


def test_parameters() -> None:
    """Ours are the settings'; baselines have the literature's for the task, and room enough."""
    assert rival_parameters("adaptive", OURS, "code") is OURS
    assert rival_parameters("hsl", OURS, "code").token_threshold == 0.99
    assert rival_parameters("hsl", OURS, "maths").token_threshold == 0.7
    assert [rival_parameters("vanilla", OURS, task).max_window for task in ("code", "maths")] == [6, 4]
    assert rival_parameters("pipesd", OURS, "code").sequence_threshold == 0.9
    assert rival_parameters("edgellm", OURS, "code").max_ahead > OURS.max_ahead
