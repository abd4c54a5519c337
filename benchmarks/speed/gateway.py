"""`pipesd bench gateway`: the gateway under many clients, and what it adds to an answer.

Also `python -m benchmarks.gateway_load`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from benchmarks.harness import options
from openai_gateway.cli import options as edge_options

__all__ = ["gateway", "main"]


def gateway(
    ctx: typer.Context,
    clients: Annotated[
        int, typer.Option("--clients", min=1, help="Clients that keep their connection.")
    ] = 200,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Answers under way at a time.")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Answers for each client.")] = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=4, help="Tokens of each answer.")] = 16,
    repeats: Annotated[int, typer.Option("--repeats", min=2, help="Answers to measure the cost on.")] = 20,
    cloud: options.Cloud = None,
    api_key: edge_options.ApiKey = None,
    target: options.Target = None,
    dtype: options.Dtype = None,
    draft: edge_options.Draft = None,
    mode: edge_options.Mode = None,
    policy: edge_options.Policy = None,
    config_file: edge_options.ConfigFile = None,
    json_file: options.JsonFile = None,
) -> None:
    """Measure errors, memory and CPU of the gateway under many clients, and what it adds to a token.

    The real stack: a server, and `pipesd edge` as a process of its own. The CPU of the event loop's
    thread (gateway, session logic, network) is counted apart from the drafting in the same process.
    """
    from benchmarks.speed.gateway_crowd import CrowdPlan
    from benchmarks.gateway_run import gateway_run
    from benchmarks.harness.server import ServerChoice, running_server
    from edge_agent.settings import EdgeSettings

    flags = {name: value for name, value in ctx.params.items() if name in EdgeSettings.model_fields}
    plan = CrowdPlan(clients, at_once, rounds, tokens)
    choice = ServerChoice(cloud, target, dtype, tuple(ctx.args))
    with running_server(choice, flags) as server:
        asyncio.run(gateway_run(server, plan, repeats, json_file))


def main() -> None:
    """`pipesd bench gateway` with the arguments of this process."""
    from benchmarks.cli import app

    app(["gateway", *sys.argv[1:]])


if __name__ == "__main__":
    main()
