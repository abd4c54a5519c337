"""The Responses API's tools as chat functions, and the way back for the model's calls. Pure.

Namespaces are flattened to `NAMESPACE__NAME`, as vLLM's server does. A `custom` tool takes free text: it
is offered as a function of one string, `input`. Tools that OpenAI would run itself cannot be run here;
those that a model may but need not use are left out of the offer and named in a response header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest
from openai_gateway.translation.parameters import object_at, objects, refuse, string, string_or

__all__ = ["ToolName", "ToolTable", "custom_arguments", "custom_input", "tool_name"]

SEPARATOR: Final = "__"
OPTIONAL_HOSTED: Final = frozenset(
    {"code_interpreter", "image_generation", "tool_search", "web_search", "web_search_preview"}
)
"""Tools that OpenAI runs itself and that agents offer by default; they are left out."""

CUSTOM_SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class ToolName:
    """A tool as the client calls it."""

    name: str
    namespace: str | None = None
    is_custom: bool = False

    @property
    def chat_name(self) -> str:
        """The name of the function that is offered to the model."""
        return self.name if self.namespace is None else self.namespace + SEPARATOR + self.name


class ToolTable:
    """The tools of one request: `offered` in the chat API's form, `left_out` by type."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Raises `InvalidRequest` or `UnsupportedParameter` for a tool that cannot be offered."""
        self.offered: list[Json] = []
        self.left_out: list[str] = []
        self._names: dict[str, ToolName] = {}
        for index, tool in enumerate(tools):
            self._add(tool, f"tools[{index}]", None)

    def resolve(self, chat_name: str) -> ToolName:
        """The client's name of the tool that the model calls `chat_name`; an unknown name is kept."""
        return self._names.get(chat_name, ToolName(chat_name))

    def choice(self, choice: str | Mapping[str, Any] | None) -> str | Json | None:
        """`tool_choice` in the chat API's form; "allowed_tools" narrows the offer.

        Raises `UnsupportedParameter` for a tool that cannot be called here.
        """
        if choice is None or isinstance(choice, str):
            return choice
        match choice.get("type"):
            case "function" | "custom":
                return {"type": "function", "function": {"name": self._chosen(choice).chat_name}}
            case "allowed_tools":
                return self._narrow(choice)
            case kind:
                raise refuse("tool_choice", f"of type {kind!r} is not supported here")

    def _narrow(self, choice: Mapping[str, Any]) -> str:
        tools = objects(choice.get("tools"), "tool_choice.tools")
        allowed = {self._chosen(tool).chat_name for tool in tools if "name" in tool}
        self.offered = [tool for tool in self.offered if tool["function"]["name"] in allowed]
        return str(choice.get("mode", "auto"))

    def _chosen(self, choice: Mapping[str, Any]) -> ToolName:
        return tool_name(choice, "tool_choice")

    def _add(self, tool: Mapping[str, Any], where: str, namespace: str | None) -> None:
        match tool.get("type"):
            case "function":
                self._offer(tool, where, ToolName(string(tool, "name", where), namespace))
            case "custom":
                name = ToolName(string(tool, "name", where), namespace, is_custom=True)
                self._offer(_as_function(tool, where), where, name)
            case "namespace" if namespace is None:
                for index, inner in enumerate(objects(tool.get("tools"), f"{where}.tools")):
                    self._add(inner, f"{where}.tools[{index}]", string(tool, "name", where))
            case str(kind) if kind in OPTIONAL_HOSTED:
                self.left_out.append(kind)
            case kind:
                raise refuse(f"{where}.type", f"{kind!r} is not supported here: only function tools are")

    def _offer(self, tool: Mapping[str, Any], where: str, name: ToolName) -> None:
        if name.chat_name in self._names:
            raise InvalidRequest(f"'{where}' repeats the tool '{name.chat_name}'.", param=where)
        self._names[name.chat_name] = name
        function = {
            key: tool[key] for key in ("description", "parameters", "strict") if tool.get(key) is not None
        }
        self.offered.append({"type": "function", "function": {"name": name.chat_name, **function}})


def custom_arguments(text: str) -> str:
    """The arguments of the function that stands for a custom tool."""
    return json.dumps({"input": text}, ensure_ascii=False)


def custom_input(arguments: str) -> str:
    """The free text in a finished call's `arguments`; arguments of another form are returned unchanged."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


def tool_name(item: Mapping[str, Any], where: str) -> ToolName:
    """The tool that `item` names. Raises `InvalidRequest` if it names none."""
    return ToolName(string(item, "name", where), string_or(item, "namespace", "", where) or None)


def _as_function(tool: Mapping[str, Any], where: str) -> Json:
    """A custom tool as a function; the grammar of its input goes into the description."""
    description = string_or(tool, "description", "", where)
    form = object_at(tool, "format", where)
    if form.get("type") == "grammar":
        description += (
            f"\n\nThe input must follow this {form.get('syntax')} grammar:\n{form.get('definition')}"
        )
    return {"description": description, "parameters": CUSTOM_SCHEMA}
