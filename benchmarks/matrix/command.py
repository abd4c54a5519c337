"""`pipesd bench matrix`: the command."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from benchmarks.harness import options
from openai_gateway.cli import options as edge_options

__all__ = ["matrix"]


def matrix(
    ctx: typer.Context,
    prompts: options.Prompts = None,
    num: options.NumPrompts = 20,
    tokens: Annotated[int, typer.Option("--tokens", min=4, help="Tokens to generate a prompt.")] = 96,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--settings",
            help="Only those with these parts, such as T=0.7 or T=1,top_p=0.9,penalties or T=0,plain "
            "(without penalties); may be repeated.",
            metavar="PARTS",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the first prompt; each has its own.")] = 0,
    cloud: options.Cloud = None,
    api_key: edge_options.ApiKey = None,
    target: options.Target = None,
    dtype: options.Dtype = "float32",
    config_file: edge_options.ConfigFile = None,
    json_file: options.JsonFile = None,
) -> None:
    """Compare sessions under random drafts with the target alone, over all kinds of sampling.

    Temperatures 0, 0.7 and 1, top_p 1 and 0.9, with and without penalties. Sessions run in batches of 1
    to 8; their drafts are right, wrong, stale, doubled or out of order, and each session moves to a fresh
    connection in the middle. Exits 1 if any text differs; every difference is shown with how close the two
    tokens were. Each of the 12 settings takes some minutes on two cores.
    """
    from benchmarks.matrix.run import VLLM_FLAGS, MatrixPlan, matrix_run
    from benchmarks.matrix.settings import selected
    from benchmarks.harness.prompts import HUMANEVAL, load_prompts
    from benchmarks.harness.server import ServerChoice, running_server

    sources = tuple(load_prompts(source) for source in prompts or [HUMANEVAL])
    plan = MatrixPlan(selected(settings), sources, num, tokens, seed, dtype)
    choice = ServerChoice(cloud, target, dtype, (*(() if cloud else VLLM_FLAGS), *ctx.args))
    with running_server(choice, {"api_key": api_key, "config_file": config_file}) as server:
        identical = asyncio.run(matrix_run(server.settings, plan, json_file, tells_all=cloud is None))
    if not identical:
        raise typer.Exit(1)
