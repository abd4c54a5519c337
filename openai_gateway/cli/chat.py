"""`pipesd chat`: a conversation in the terminal with a running gateway."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["chat"]

DEFAULT_URL = "http://127.0.0.1:8650/v1"


def chat(
    url: Annotated[str, typer.Option("--url", help="The gateway.", metavar="URL")] = DEFAULT_URL,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask this alone and leave.", metavar="TEXT")
    ] = None,
    api_key: Annotated[
        str,
        typer.Option("--api-key", envvar="PIPESD_GATEWAY_API_KEY", help="Key of the gateway.", metavar="KEY"),
    ] = "unused",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 512,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=2.0)] = 0.0,
) -> None:
    """Chat with a running gateway. Ctrl-C stops an answer, Ctrl-D leaves, /new starts over."""
    from openai_gateway.cli.terminal_chat import Conversation, converse

    with Conversation.connect(url, api_key, max_tokens=max_tokens, temperature=temperature) as conversation:
        if message is None:
            converse(conversation)
        else:
            conversation.ask(message)
