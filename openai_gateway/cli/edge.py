"""`pipesd edge`: the edge agent and its gateway, for a server that runs elsewhere."""

from __future__ import annotations

import typer

from openai_gateway.cli import options

__all__ = ["COMMAND", "edge"]

COMMAND = options.with_settings()()


def edge(ctx: typer.Context) -> None:
    """Start the edge agent: an OpenAI API on this machine, verified by the vLLM server at --cloud.

    Each flag can also be set in the environment (its variable stands behind it) or in a TOML file. Where no
    draft model is installed and none is named, or its vocabulary is another one, drafts are only looked up.
    """
    from edge_agent import EdgeAgent, load_settings
    from openai_gateway.cli.hosting import bind_gateway, run_gateway

    settings = load_settings(options.given(ctx))
    with bind_gateway(settings) as listener:
        run_gateway(settings, listener, EdgeAgent.start)
