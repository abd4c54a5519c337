"""A client's body in vLLM's words, before a route is chosen: what llama-server, Ollama and older clients say.

`RULES` is the table: what it does not name, vLLM reads as it is. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from edge_agent.api import TargetInfo
from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest
from openai_gateway.routing.reasoning import with_thinking
from pipesd_vllm.wire import NO_SEED, AskPath

__all__ = ["RULES", "normalise", "sampling_used", "within"]

NO_LIMIT: Final = 1 << 62
"""What stands for no limit until the target's context is known."""
CHAT_PATH: Final[AskPath] = "/v1/chat/completions"

_INTEGERS: Final = (
    *("seed", "n", "best_of", "max_tokens", "max_completion_tokens", "min_tokens", "top_k", "top_logprobs"),
    *("prompt_logprobs", "truncate_prompt_tokens", "thinking_token_budget", "priority", "stream_interval"),
)
_NUMBERS: Final = (
    *("temperature", "top_p", "min_p", "typical_p", "length_penalty", "guidance_scale"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
_BOOLEANS: Final = (
    *("stream", "echo", "ignore_eos", "skip_special_tokens", "spaces_between_special_tokens"),
    *("include_stop_str_in_output", "parallel_tool_calls", "include_reasoning", "use_beam_search"),
    *("add_generation_prompt", "continue_final_message", "add_special_tokens", "return_token_ids"),
)
_TYPES: Final[Mapping[str, TypeAdapter[Any]]] = {
    **dict.fromkeys(_INTEGERS, TypeAdapter(int)),
    **dict.fromkeys(_NUMBERS, TypeAdapter(Annotated[float, Field(allow_inf_nan=False)])),
    **dict.fromkeys(_BOOLEANS, TypeAdapter(bool)),
}
_ONE_MAY_BE_EMPTY: Final = frozenset({"messages", "prompt"})
_RENAMED: Final[Mapping[str, str]] = {
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
}
_LIMITS: Final = ("max_tokens", "max_completion_tokens")
_UNLIMITED: Final = (-1, -2)
_RANDOM: Final = (NO_SEED, (1 << 32) - 1, (1 << 64) - 1)
"""No seed: vLLM's word, and the same as an unsigned number (llama-server's)."""
_GUIDED: Final = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
_FORMS: Final = (*_GUIDED, "structured_outputs", "json_schema", "grammar")


def _without_empty(body: Json, path: AskPath) -> None:
    for name in [name for name, value in body.items() if value in (None, "", [], {})]:
        if body[name] is None or name not in _ONE_MAY_BE_EMPTY:
            del body[name]


def _with_vllm_names(body: Json, path: AskPath) -> None:
    for name, own in _RENAMED.items():
        if name in body:
            value = body.pop(name)
            if body.setdefault(own, value) != value:
                raise InvalidRequest(f"'{name}' and '{own}' are both set and differ.", param=name)


def _with_types(body: Json, path: AskPath) -> None:
    for name in _TYPES.keys() & body.keys():
        body[name] = _read(_TYPES[name], body[name])
    if path == CHAT_PATH and "logprobs" in body:
        asked = body["logprobs"]
        if type(asked) is int:  # the completions' way to say it
            body["logprobs"] = True
            body.setdefault("top_logprobs", asked)
        else:
            body["logprobs"] = _read(_TYPES["stream"], asked)
    if isinstance(options := body.get("stream_options"), dict):
        body["stream_options"] = {name: _read(_TYPES["stream"], value) for name, value in options.items()}


def _with_limits(body: Json, path: AskPath) -> None:
    for name in _LIMITS:
        if body.get(name) in _UNLIMITED:
            body[name] = NO_LIMIT


def _with_seed(body: Json, path: AskPath) -> None:
    seed = body.get("seed")
    if not isinstance(seed, int):
        return
    if seed in _RANDOM:
        del body["seed"]
    elif 1 << 63 <= seed < 1 << 64:
        body["seed"] = seed - (1 << 64)


def _with_filters(body: Json, path: AskPath) -> None:
    if isinstance(top_k := body.get("top_k"), int) and top_k < 0:
        body["top_k"] = 0
    if body.get("top_p") == -1:
        body["top_p"] = 1.0
    elif body.get("top_p") == 0:
        body |= {"top_p": 1.0, "top_k": 1}
    for name in ("min_p", "min_tokens"):
        if body.get(name) == -1:
            body[name] = 0


def _with_lists(body: Json, path: AskPath) -> None:
    if isinstance(stops := body.get("stop"), list):
        body["stop"] = [stop for stop in stops if stop not in ("", None)]
    if isinstance(biases := body.get("logit_bias"), list) and all(
        isinstance(pair, list) and len(pair) == 2 for pair in biases
    ):
        body["logit_bias"] = {str(token): -100 if bias is False else bias for token, bias in biases}
    if not body.get("stream"):
        body.pop("stream_options", None)


def _with_tools(body: Json, path: AskPath) -> None:
    if "tools" in body:
        return
    if body.get("tool_choice") in ("auto", "none"):
        del body["tool_choice"]
    body.pop("parallel_tool_calls", None)


def _with_form(body: Json, path: AskPath) -> None:
    if (asked := body.pop("guided_json_object", None)) is True or asked == "true":
        body.setdefault("structured_outputs", {"json_object": True})
    forms: list[str] = [name for name in _FORMS if name in body]
    if "json_schema" in forms and "response_format" in body:
        forms.append("response_format")
    if len(forms) > 1:
        names = " and ".join(f"'{name}'" for name in forms)
        raise InvalidRequest(f"{names} both say what form the answer has: choose one.", param=forms[1])
    form = forms[0] if forms else None
    if form == "json_schema":
        body["response_format"] = {"type": "json_schema", "schema": body.pop(form)}
    elif form is not None and form != "structured_outputs":
        body["structured_outputs"] = {form.removeprefix("guided_"): body.pop(form)}
    if isinstance(asked := body.get("response_format"), dict):
        body["response_format"] = _response_format(asked)


def _response_format(asked: Json) -> Json:
    if asked.get("type") not in ("json_object", "json_schema"):
        return asked
    nested = asked.get("json_schema")
    described = {**nested} if isinstance(nested, dict) else {"schema": asked.get("schema")}
    if described.get("schema") is None and asked["type"] == "json_object":
        return asked
    if not isinstance(described.get("schema"), dict):
        raise InvalidRequest(
            "'response_format' needs 'json_schema' with an object as 'schema'.",
            param="response_format",
            code="invalid_value",
        )
    described.setdefault("name", "answer")
    return {"type": "json_schema", "json_schema": described}


def _with_reasoning(body: Json, path: AskPath) -> None:
    if path == CHAT_PATH:
        meant = dict(with_thinking(body))
        body.clear()
        body |= meant


Rule = Callable[[Json, AskPath], None]

RULES: Final[Mapping[str, Rule]] = {
    "empty": _without_empty,
    "names": _with_vllm_names,
    "types": _with_types,
    "limits": _with_limits,
    "seed": _with_seed,
    "filters": _with_filters,
    "lists": _with_lists,
    "tools": _with_tools,
    "form": _with_form,
    "reasoning": _with_reasoning,
}
"""In the order in which they apply; docs/api.md says what each does. Each changes the body in place."""


def normalise(body: Mapping[str, Any], path: AskPath) -> Json:
    """A copy of `body` to which all `RULES` were applied.

    What no rule can read stays, for the route's own check. Raises `InvalidRequest` where two fields
    contradict each other, `UnsupportedParameter` for a value without a counterpart.
    """
    meant = {**body}
    for rule in RULES.values():
        rule(meant, path)
    return meant


def within(body: Mapping[str, Any], target: TargetInfo) -> Json:
    """A normalised `body` with what is beyond `target` as no limit: its context, its vocabulary."""
    fitting = {**body}
    for name in _LIMITS:
        if isinstance(limit := body.get(name), int):
            fitting[name] = min(limit, target.max_model_len)
    if isinstance(top_k := body.get("top_k"), int) and top_k >= target.vocab_size:
        fitting["top_k"] = 0
    return fitting


_OPENAI_DEFAULTS: Final[Mapping[str, float]] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


def sampling_used(body: Mapping[str, Any], target: TargetInfo) -> Json:
    """How tokens are picked: by the fields of a normalised `body`, or else the target's, or else OpenAI's."""
    defaults = {**_OPENAI_DEFAULTS, **target.sampling_defaults}
    return {name: body.get(name, defaults[name]) for name in _OPENAI_DEFAULTS}


def _read(adapter: TypeAdapter[Any], value: object) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return value
