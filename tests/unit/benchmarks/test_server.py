"""Which server is benchmarked."""

import pytest

from benchmarks.harness.server import ServerChoice, running_server
from edge_agent.errors import ModelError
from openai_gateway.cli.errors import CliError


def test_flags_for_a_server_started_here() -> None:
    """--dtype goes to vLLM along with what came after `--`."""
    assert ServerChoice(dtype="float32", vllm_flags=("--enforce-eager",)).flags() == [
        "--dtype",
        "float32",
        "--enforce-eager",
    ]


def test_a_running_server_is_used_as_it_is() -> None:
    """Nothing is started; a pasted OpenAI URL and the key reach the agent's settings."""
    with running_server(ServerChoice("http://gpu:8000/v1", dtype="float32"), {"api_key": "k"}) as server:
        assert server.process is None
        assert server.settings.cloud_url == "http://gpu:8000"
        assert server.settings.api_key is not None


@pytest.mark.parametrize(
    "choice",
    [ServerChoice("http://gpu:8000", target="m"), ServerChoice("http://gpu:8000", vllm_flags=("--x",))],
)
def test_flags_that_would_have_no_effect_are_refused(choice: ServerChoice) -> None:
    """Misuse, so exit code 2."""
    with pytest.raises(CliError, match="leave them out") as caught, running_server(choice, {}):
        pass
    assert caught.value.exit_code == 2


def test_a_mistyped_draft_does_not_wait_for_the_server() -> None:
    """It is told before anything is started."""
    with (
        pytest.raises(ModelError, match="'embeded' does not exist"),
        running_server(ServerChoice(target="/no/such/folder"), {"draft": "embeded"}),
    ):
        pass
