"""Rendering a model's own chat template, by the conventions of Hugging Face transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from openai_gateway.errors import InvalidRequest

__all__ = ["ChatTemplate"]

_NEEDLE = "pipesd-needle"


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's tokens for training; here it renders."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which would put &lt; into prompts.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _environment(now: Callable[[], datetime]) -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: now().strftime(layout)
    return environment


def _local_time() -> datetime:
    return datetime.now().astimezone()


class ChatTemplate:
    """A compiled template. Templates come from the model's author, so they run sandboxed.

    `takes_parts`: the template reads a message's content as a list of `{"type": "text", ...}`;
    `takes_text`: it reads it as a string; `knows_developer`: it handles that role.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        now: Callable[[], datetime] = _local_time,
        *,
        content_format: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        """Compile `source`. Raises `InvalidRequest` if that fails: no chat request can be served.

        Without a `content_format` ("string" or "openai") it is found out by trying. `variables` are given to
        the template unless a request says otherwise.
        """
        self._given = {**special_tokens, **(variables or {})}
        try:
            self._template = _environment(now).from_string(source)
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"The model's chat template is broken: {error}", param="messages") from error
        if content_format is None:
            self.takes_text = self._shows(_NEEDLE)
            self.takes_parts = self._shows([{"type": "text", "text": _NEEDLE}])
        else:
            self.takes_text, self.takes_parts = content_format != "openai", content_format == "openai"
        self.knows_developer = '"developer"' in source or "'developer'" in source

    def render(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None = None
    ) -> str:
        """The prompt text, ending where the assistant's answer begins.

        Raises `InvalidRequest` with the template's own words when it cannot render `messages`
        (roles out of order, for example).
        """
        values = {**self._given, **(variables or {})}
        try:
            return self._template.render(
                **values, messages=messages, tools=None, documents=None, add_generation_prompt=True
            )
        except Exception as error:  # the template is third-party code: whatever it raises is about this input
            raise InvalidRequest(
                f"The model's chat template refused the messages: {error}", param="messages"
            ) from error

    def _shows(self, content: object) -> bool:
        """Whether `content` comes out as text, and not left out or as Python's repr of a list."""
        try:
            text = self.render([{"role": "user", "content": content}])
        except InvalidRequest:
            return False
        return _NEEDLE in text and "'text'" not in text
