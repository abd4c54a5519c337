"""`pipesd chat`: a conversation in the terminal with a running gateway, through the `openai` SDK."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape

from openai_gateway.cli.errors import CliError

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionMessageParam

__all__ = ["Conversation", "chat", "converse", "explained", "summary"]

DEFAULT_URL = "http://127.0.0.1:8650/v1"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def chat(
    question: Annotated[
        str | None, typer.Argument(help="Ask this alone and leave.", metavar="[QUESTION]")
    ] = None,
    url: Annotated[str, typer.Option("--url", help="The gateway.", metavar="URL")] = DEFAULT_URL,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="As QUESTION.", metavar="TEXT")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="One that the gateway lists, such as NAME:local (default: the first).",
            metavar="NAME",
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="Instructions in front of all turns.", metavar="TEXT")
    ] = None,
    api_key: Annotated[
        str,
        typer.Option("--api-key", envvar="PIPESD_GATEWAY_API_KEY", help="Key of the gateway.", metavar="KEY"),
    ] = "unused",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, max=2.0, help="0: the likeliest text.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Gives the same text again.")] = None,
) -> None:
    """Chat with a running gateway. Ctrl-C stops an answer, Ctrl-D leaves, /new starts over."""
    question = question if message is None else message
    asked: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    with Conversation.connect(base_url(url), api_key, model, system=system, **asked) as conversation:
        if question is None:
            converse(conversation)
        else:
            conversation.ask(question)


def base_url(given: str) -> str:
    """`given` as OpenAI's clients need it, with scheme and /v1. Raises `CliError` if it is no URL."""
    url = given.strip()
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_one = False
    if not is_one:
        raise CliError(f"{given!r} is not the URL of a gateway, such as {DEFAULT_URL}.", exit_code=2)
    url = url.rstrip("/")
    return url if parts.path.strip("/") else f"{url}/v1"


class Conversation:
    """The turns so far; a context manager. `ask` prints the answer to `out`, then a line of statistics."""

    def __init__(
        self,
        client: openai.OpenAI,
        model: str,
        *,
        out: Console,
        system: str | None = None,
        **asked: Any,
    ) -> None:
        """`asked`: sampling parameters of each request; None: left out."""
        self.model = model
        self._client = client
        self._asked = {name: value for name, value in asked.items() if value is not None}
        self._out = out
        self._instructions: list[ChatCompletionMessageParam] = (
            [{"role": "system", "content": system}] if system else []
        )
        self._messages = [*self._instructions]

    @classmethod
    def connect(
        cls,
        url: str,
        api_key: str,
        model: str | None = None,
        *,
        system: str | None = None,
        out: Console | None = None,
        **asked: Any,
    ) -> Self:
        """A conversation with `model`, or the first that the gateway at `url` lists. Raises `CliError`."""
        import openai  # takes half a second, which no other command should wait for

        local = urlsplit(url).hostname in _LOOPBACK  # a proxy is no way to our own machine
        client = openai.OpenAI(
            base_url=url,
            api_key=api_key,
            http_client=openai.DefaultHttpxClient(trust_env=not local),
            max_retries=1,
        )
        try:
            with explained(url):
                served = [card.id for card in client.models.list().data]
            if not served:
                raise CliError(f"The gateway at {url} lists no models.")
        except CliError:
            client.close()
            raise
        out = out or Console(highlight=False)
        return cls(client, model or served[0], out=out, system=system, **asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def url(self) -> str:
        """Base URL of the gateway."""
        return str(self._client.base_url)

    def start_over(self) -> None:
        """Forget all turns."""
        self._messages = [*self._instructions]

    def ask(self, text: str) -> str:
        """Add a turn and print the answer as it comes. Returns the answer.

        Raises `CliError`, or `KeyboardInterrupt` if the user stopped it; the turn is then forgotten.
        """
        messages: list[ChatCompletionMessageParam] = [*self._messages, {"role": "user", "content": text}]
        with explained(self.url):
            answer, figures = self._stream(messages)
        self._messages = [*messages, {"role": "assistant", "content": answer}]
        self._out.print(f"[dim]{escape(summary(figures))}[/dim]", soft_wrap=True)
        return answer

    def _stream(self, messages: list[ChatCompletionMessageParam]) -> tuple[str, Mapping[str, Any]]:
        """The whole answer and the `pipesd` object of the last chunk that had one."""
        answer = ""
        figures: Mapping[str, Any] = {}
        stream = self._client.chat.completions.create(
            model=self.model,
            messages=messages,
            stream=True,
            **self._asked,
        )
        thinks = False
        try:
            for chunk in stream:
                figures = (chunk.model_extra or {}).get("pipesd") or figures
                for choice in chunk.choices:
                    thoughts = (choice.delta.model_extra or {}).get("reasoning") or ""
                    self._out.print(f"[dim]{escape(thoughts)}[/dim]", end="", soft_wrap=True)
                    if thinks and choice.delta.content:
                        self._out.file.write("\n\n")
                    thinks = (thinks or bool(thoughts)) and not choice.delta.content
                    answer += choice.delta.content or ""
                    self._out.file.write(choice.delta.content or "")
                    self._out.file.flush()
        finally:
            stream.close()  # before the end, this ends the generation on both sides
            self._out.file.write("\n")
        return answer, figures


def converse(conversation: Conversation) -> None:
    """Ask what the user types, until Ctrl-D. Ctrl-C stops an answer; at the prompt it leaves."""
    import readline  # noqa: F401 - gives input() line editing and history

    print(f"{conversation.model}: Ctrl-C stops an answer, Ctrl-D leaves, /new starts over.")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return
        if text == "/new":
            conversation.start_over()
        elif text:
            _ask_patiently(conversation, text)


def _ask_patiently(conversation: Conversation, text: str) -> None:
    try:
        conversation.ask(text)
    except KeyboardInterrupt:
        print("(stopped)")
    except CliError as error:
        print(error, file=sys.stderr)


def summary(figures: Mapping[str, Any]) -> str:
    """One line of the statistics that the gateway sent; missing ones are left out."""
    parts = [
        ("TTFT {:.0f} ms", figures.get("ttft_ms")),
        ("TPT {:.1f} ms", figures.get("tpt_ms")),
        ("acceptance {:.0%}", figures.get("acceptance_rate")),
        ("{:.2f} passes/token", figures.get("passes_per_token")),
        ("route {}", _route(figures)),
    ]
    return " · ".join(text.format(value) for text, value in parts if value is not None)


def _route(figures: Mapping[str, Any]) -> str | None:
    """The route, with its reason in brackets."""
    route, reason = figures.get("route"), figures.get("reason")
    return f"{route} ({reason})" if route and reason else route


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what goes wrong with a request to `url` into a `CliError`."""
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        raise CliError(f"The gateway refused: {_message(error)}") from error
    except openai.APIConnectionError as error:
        raise CliError(
            f"No gateway answers at {url}: start one with `pipesd up`, or name it with --url."
        ) from error
    except openai.APIError as error:  # an error event in the middle of a stream
        raise CliError(f"The answer was cut off: {error.message}") from error


def _message(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)
