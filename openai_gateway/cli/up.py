"""`pipesd up`: server and edge agent on this machine."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from openai_gateway.cli import options
from openai_gateway.cli.processes import ServerProcess

__all__ = ["COMMAND", "CONTEXT_SETTINGS", "METAVAR", "up"]

COMMAND = options.with_settings(without=("cloud_url", "replicas", "other_targets", "ca_file", "api_key"))()

# Flags for vLLM come after `--`: a mistyped flag of ours must not be taken for one of them.
CONTEXT_SETTINGS: Final = {"allow_extra_args": True}
METAVAR: Final = "[OPTIONS] [-- any vLLM flag...]"


def up(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Option(
            "--target", help="Target model: embedded, a path or a Hugging Face id.", metavar="MODEL"
        ),
    ] = "embedded",
    target_port: Annotated[
        int | None,
        typer.Option("--target-port", help="Port of the server (default: a free one).", show_default=False),
    ] = None,
) -> None:
    """Start server and edge agent on this machine, by default for the small embedded model.

    Flags after `--` go to vLLM. Ctrl-C stops both.
    """
    from edge_agent import EdgeAgent, load_settings
    from edge_agent.drafting import check_model
    from openai_gateway.cli.extras import require
    from openai_gateway.cli.hosting import bind_gateway, run_gateway
    from openai_gateway.cli.local_target import local_target
    from openai_gateway.cli.running import announced

    require("up", "all", "llama_cpp", "vllm")
    server = local_target(target, ctx.args, port=target_port)
    settings = load_settings({**options.given(ctx), "cloud_url": server.base_url})
    check_model(settings.draft)  # a mistyped draft need not wait for the server
    with bind_gateway(settings) as listener, server:
        wait_with_status(server)
        with announced("server", server.base_url, target):
            run_gateway(settings, listener, EdgeAgent.start, stop_when=lambda: not server.is_running())
        server.check_running()


def wait_with_status(server: ServerProcess) -> None:
    """Wait until `server` is ready and show its progress. Raises `ServerFailed`."""
    from openai_gateway.cli.console import live_status, stderr

    with live_status() as show:
        server.wait_ready(progress=lambda s, line: show(f"Starting the {server.name} ({s:.0f} s) {line}"))
    stderr.print(f"The {server.name} is ready; its log: {server.log_path}", soft_wrap=True)
