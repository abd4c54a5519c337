"""What existing clients send, answered by vLLM's own front end behind the gateway, and by its other routes.

Each case was once answered in another way than the server that the client was written for answers it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from openai_gateway.app import create_app
from openai_gateway.http import AccessPolicy
from openai_gateway.routing.normaliser import RULES

from ..front_edge import Bench, ask, lines
from ..pipesd_vllm.api.front_end import FrontEnd, make_model

pytestmark = pytest.mark.filterwarnings("ignore")

CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
HI = {"role": "user", "content": "Hi"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def front(model: Path) -> FrontEnd:
    return FrontEnd(model, "--enable-auto-tool-choice", "--tool-call-parser", "hermes")


@pytest.fixture(autouse=True)
def as_new(front: FrontEnd) -> None:
    front.engine.opened.clear()
    hello = front.engine.ids("Hello")
    front.engine.script = lambda prompt, offset: hello


async def answered(front: FrontEnd, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    got = await ask(front, path, body)
    assert got.status_code == 200, got.text
    return dict(got.json())


def sampling(front: FrontEnd) -> Any:
    """How vLLM was told to pick tokens for the request that was drafted for last."""
    return front.engine.opened[-1][1]


async def told_by_vllm(front: FrontEnd, body: Mapping[str, Any]) -> int:
    """The prompt's tokens as vLLM's own API counts them."""
    plain = await front.plain(CHAT, {**body})
    assert plain.status == 200, plain.body
    return int(json.loads(plain.body)["usage"]["prompt_tokens"])


async def test_private_network_preflight(front: FrontEnd) -> None:
    """A public page whose origin is allowed may reach a private address; others are told nothing."""
    async with lines(front, -1) as line:
        bench = Bench(front, "Hello", line)
        policy = AccessPolicy(origins=frozenset({ORIGIN}))
        transport = httpx.ASGITransport(create_app(bench.agent, api_key="k", access=policy))
        headers = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
            "Access-Control-Request-Private-Network": "true",
        }
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            allowed = await client.options(CHAT, headers=headers | {"Origin": ORIGIN})
            refused = await client.options(CHAT, headers=headers | {"Origin": "https://evil.example"})
        await bench.agent.close()
    assert allowed.is_success
    assert allowed.headers["access-control-allow-private-network"] == "true"
    assert 400 <= refused.status_code < 500
    assert not any("allow-origin" in name or "private" in name for name in refused.headers)


@pytest.mark.parametrize("seed", [-1, "-1", -1.0, 4294967295, None])
async def test_no_seed(front: FrontEnd, seed: object) -> None:
    """However a server calls it: a new seed each time, which the answer tells."""
    body = {"messages": [HI], "seed": seed, "temperature": 1.0, "max_tokens": 12}
    told = [(await answered(front, CHAT, body))["pipesd"]["seed"] for _ in range(3)]
    assert len(set(told)) == 3
    assert sampling(front).seed == told[-1]


@pytest.mark.parametrize("top_k", [4294967296, 2**31, 10**6, -1, 0, "40000000000"])
async def test_top_k_without_a_limit(front: FrontEnd, top_k: object) -> None:
    """What is larger than the vocabulary is no limit."""
    got = await answered(front, CHAT, {"messages": [HI], "top_k": top_k, "max_tokens": 4})
    assert sampling(front).top_k == 0
    assert got["pipesd"]["sampling"]["top_k"] == 0


@pytest.mark.parametrize("min_tokens", [4294967296, 2**31, 99])
async def test_more_tokens_at_least_than_at_most(front: FrontEnd, min_tokens: int) -> None:
    got = await ask(front, CHAT, {"messages": [HI], "min_tokens": min_tokens, "max_tokens": 4})
    assert got.status_code == 400
    assert got.json()["error"]["param"] == "min_tokens"


@pytest.mark.parametrize("more", [{"model": "default:cloud"}, {"n": 2}, {}], ids=["cloud", "n", "plain"])
@pytest.mark.parametrize(
    ("form", "meant"),
    [
        ({"guided_choice": ["yes", "no"]}, ("choice", ["yes", "no"])),
        ({"guided_json": SCHEMA}, ("json", SCHEMA)),
        ({"guided_regex": "[a-z]+"}, ("regex", "[a-z]+")),
        ({"guided_json_object": True}, ("json_object", True)),
        ({"json_schema": SCHEMA}, ("json", SCHEMA)),
        ({"grammar": 'root ::= "yes" | "no"'}, ("grammar", 'root ::= "yes" | "no"')),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, ("json", SCHEMA)),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, ("json", SCHEMA)),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, ("json", SCHEMA)),
    ],
    ids=[
        "choice",
        "json",
        "regex",
        "json_object",
        "json_schema",
        "grammar",
        "object+schema",
        "llama.cpp's",
        "no name",
    ],
)
async def test_forms_of_other_servers_are_enforced(
    front: FrontEnd,
    monkeypatch: pytest.MonkeyPatch,
    more: Mapping[str, Any],
    form: Any,
    meant: tuple[str, Any],
) -> None:
    """Former fields of vLLM, llama-server's, and schemas without their wrapping: on every route."""
    told: list[Any] = []
    process = front.engine.input_processor.process_inputs

    def seen(request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        told.append(copy.copy(params.structured_outputs))
        return process(request_id, prompt, params, *args, **kwargs)

    monkeypatch.setattr(front.engine.input_processor, "process_inputs", seen)
    body = {"messages": [{"role": "user", "content": "Yes or no?"}], "max_tokens": 8, **form, **more}
    got = await ask(front, CHAT, body)
    assert got.status_code == 200, got.text
    name, value = meant
    assert getattr(told[0], name) == value  # vLLM writes the grammar into it for a second answer


@pytest.mark.parametrize(
    "asked", [{"type": "json_schema", "json_schema": {"name": "x"}}, {"type": "json_schema"}]
)
async def test_a_schema_that_is_none(front: FrontEnd, asked: dict[str, Any]) -> None:
    """vLLM would answer in any form."""
    got = await ask(front, CHAT, {"messages": [HI], "response_format": asked})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "response_format")


HISTORIES: dict[str, list[Any]] = {
    "null": [HI, {"role": "assistant", "content": None}, HI],
    "refusal": [HI, {"role": "assistant", "content": None, "refusal": "No."}, HI],
    "left out": [HI, {"role": "assistant"}, HI],
    "no calls": [HI, {"role": "assistant", "content": "x", "tool_calls": []}, HI],
    "developer after system": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Answer in English."},
        HI,
    ],
    "developer at the end": [HI, {"role": "developer", "content": "Answer in English."}],
    "empty text": [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": ""}]}
    ],
    "only empty": [{"role": "user", "content": [{"type": "text", "text": ""}]}],
    "texts": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]}],
    "function": [HI, {"role": "function", "name": "f", "content": "7"}],
    "thoughts": [HI, {"role": "assistant", "content": "x", "reasoning_content": "y"}, HI],
}


@pytest.mark.parametrize("messages", HISTORIES.values(), ids=HISTORIES)
async def test_histories_are_rendered_as_vllm_renders_them(front: FrontEnd, messages: list[Any]) -> None:
    body = {"messages": messages, "max_tokens": 4}
    got = await answered(front, CHAT, body)
    assert got["usage"]["prompt_tokens"] == await told_by_vllm(front, body)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [], "tool_choice": "auto"},
        {"tools": []},
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"tools": None, "tool_choice": "auto", "parallel_tool_calls": True},
        {"tool_choice": ""},
    ],
)
@pytest.mark.parametrize("route", ["default", "default:cloud"])
async def test_no_tools(front: FrontEnd, more: Mapping[str, Any], route: str) -> None:
    """Answered as without the fields."""
    got = await answered(front, CHAT, {"messages": [HI], "max_tokens": 4, "model": route, **more})
    assert got["choices"][0]["message"]["content"] == "Hell"


async def test_a_tool_that_is_asked_for_and_not_there(front: FrontEnd) -> None:
    got = await ask(front, CHAT, {"messages": [HI], "tools": [], "tool_choice": "required"})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "tool_choice")


def system_of(line: str) -> dict[str, Any]:
    blocks = [{"type": "text", "text": line}, {"type": "text", "text": "You are an agent."}]
    return {"max_tokens": 4, "system": blocks, "messages": [HI]}


async def test_a_line_that_differs_each_time(front: FrontEnd) -> None:
    """A coding agent counts its requests in its system prompt: without that line the prefix is the same."""
    prompts = []
    for count in ("1", "2"):
        line = f"x-anthropic-billing-header: cc_version=1; cch={count}"
        await answered(front, MESSAGES, system_of(line))
        prompts.append(front.engine.opened[-1][2]["prompt_token_ids"])
    assert prompts[0] == prompts[1]
    plain = await front.plain(MESSAGES, system_of("x-anthropic-billing-header: 3") | {"model": "m"})
    assert json.loads(plain.body)["usage"]["input_tokens"] == len(prompts[0]) - 1  # the engine adds one


async def test_message_start_has_the_prompts_tokens(front: FrontEnd) -> None:
    body = {"max_tokens": 4, "messages": [HI]}
    whole = await answered(front, MESSAGES, body)
    streamed = await ask(front, MESSAGES, body | {"stream": True})
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert events[0]["type"] == "message_start"
    usage = events[0]["message"]["usage"]
    assert usage["input_tokens"] == whole["usage"]["input_tokens"] > 0
    assert usage["output_tokens"] == 0


async def test_a_prompt_is_echoed_without_an_answer(front: FrontEnd) -> None:
    """With log-probabilities in tests/e2e/test_logprobs.py, where an engine is."""
    body = {"prompt": "The sky is blue", "echo": True, "max_tokens": 0}
    got = await answered(front, COMPLETIONS, body)
    assert got["choices"][0]["text"] == "The sky is blue"


@pytest.mark.parametrize("limit", [-1, -2, 2**31 - 1, 10**12, "-1", 1e9])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens"])
async def test_no_limit(front: FrontEnd, limit: object, name: str) -> None:
    """Unlimited, in any server's words, is what the context leaves."""
    await answered(front, CHAT, {"messages": [HI], name: limit})
    prompt = front.engine.opened[-1][2]["prompt_token_ids"]
    assert sampling(front).max_tokens == 4096 - (len(prompt) - 1)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"temperature": "0.5"}, ("temperature", 0.5)),
        ({"max_tokens": 5.0}, ("max_tokens", 5)),
        ({"max_tokens": "5"}, ("max_tokens", 5)),
        ({"ignore_eos": "true"}, ("ignore_eos", True)),
        ({"repeat_penalty": 1.5}, ("repetition_penalty", 1.5)),
        ({"stop": ["", "x"]}, ("stop", [])),
        ({"logit_bias": [[5, -2], [6, False]]}, ("logit_bias", {5: -2.0, 6: -100.0})),
        ({"top_p": -1}, ("top_p", 1.0)),
        ({"top_p": 0}, ("top_k", 1)),
        ({"min_p": None, "min_tokens": None, "bad_words": None, "stop": ""}, ("min_tokens", 0)),
        ({"seed": 2**64 - 3}, ("seed", -3)),
        ({"logprobs": 2}, ("logprobs", 2)),
        ({"presence_penalty": ""}, ("presence_penalty", 0.0)),
    ],
)
async def test_values_in_other_words(front: FrontEnd, sent: dict[str, Any], meant: tuple[str, Any]) -> None:
    await answered(front, CHAT, {"messages": [HI], "max_tokens": 9, **sent})
    name, value = meant
    assert getattr(sampling(front), name) == value


@pytest.mark.parametrize(
    "form",
    [
        {"guided_regex": "("},
        {"guided_regex": "[a-"},
        {"guided_regex": "a{3,1}"},
        {"guided_grammar": "root ::= ("},
        {"guided_grammar": "root ::= nothing"},
        {"guided_grammar": 'rout ::= "x"'},
        {"json_schema": {"type": 3}},
        {"json_schema": {"type": "no such type"}},
        {"json_schema": {"$ref": "#/$defs/nowhere"}},
        {"json_schema": {"type": "object", "properties": {"foo": "bar"}}},
        {"json_schema": {"type": "string", "pattern": "^hello\\!("}},
        {"guided_json": "no JSON"},
        {"guided_choice": [1, 2]},
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        {"structured_outputs": {"structural_tag": "{"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["default", "default:cloud"])
async def test_forms_that_do_not_compile(
    front: FrontEnd, form: dict[str, Any], stream: bool, route: str
) -> None:
    """A 400 before anything is streamed, and no fault of the engine."""
    body = {"messages": [HI], "max_tokens": 4, "stream": stream, "model": route, **form}
    got = await ask(front, CHAT, body)
    assert got.status_code == 400, got.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"model": "default", "messages": [HI], "format": {"type": 3}}),
        ("/v1/messages", {"output_config": {"format": {"type": "json_schema", "schema": {"type": 3}}}}),
        ("/v1/responses", {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": 3}}}}),
        ("/completion", {"prompt": "x", "grammar": "root ::= ("}),
        ("/completion", {"prompt": "x", "json_schema": {"type": 3}}),
    ],
)
async def test_forms_that_do_not_compile_in_other_words(
    front: FrontEnd, path: str, body: dict[str, Any]
) -> None:
    more = {"/v1/messages": {"messages": [HI], "max_tokens": 4}, "/v1/responses": {"input": "Hi"}}
    got = await ask(front, path, more.get(path, {}) | body)
    assert got.status_code == 400, got.text


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [([72, 105], 2), ([[72, 105]], 2), (["Hi"], 2), ([72.0, 105], 2)],
)
async def test_prompts_of_ids(front: FrontEnd, prompt: Any, tokens: int) -> None:
    """One prompt, of text or ids, in a list or not."""
    got = await answered(front, COMPLETIONS, {"prompt": prompt, "max_tokens": 4})
    assert got["usage"]["prompt_tokens"] == tokens


@pytest.mark.parametrize(
    "prompt",
    [
        [-1],
        [[-1]],
        [10**9],
        [2**63],
        [72, "i"],
        ["H", [105]],
        [[]],
        [],
        [72.5],
        [None],
        [[72], None],
        {"ids": [1]},
    ],
    ids=str,
)
@pytest.mark.parametrize("route", ["default", "default:cloud"])
async def test_prompts_that_are_none(front: FrontEnd, prompt: Any, route: str) -> None:
    """A 400: an id that no model has would stop an engine."""
    got = await ask(front, COMPLETIONS, {"prompt": prompt, "max_tokens": 4, "model": route})
    assert got.status_code == 400, got.text


async def test_several_prompts_of_ids(front: FrontEnd) -> None:
    prompts = [front.engine.ids(text, ends=False) for text in ("Hi", "H")]
    got = await answered(front, COMPLETIONS, {"prompt": prompts, "max_tokens": 4, "echo": True})
    assert [choice["text"] for choice in got["choices"]] == ["HiHell", "HHell"]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/api/chat"])
async def test_a_prompt_beyond_the_context(front: FrontEnd, path: str) -> None:
    """A 400 in the words by which an agent of this API knows to shorten its conversation."""
    body = {"messages": [{"role": "user", "content": "x" * 9000}], "max_tokens": 4, "model": "default"}
    got = await ask(front, path, body)
    assert got.status_code == 400
    error = got.json()["error"]
    if path == CHAT:
        assert error["code"] == "context_length_exceeded"
    elif path == MESSAGES:
        assert error["message"].startswith("prompt is too long: ")
    else:
        assert "maximum context length" in error


@pytest.mark.parametrize("stream", ["false", "true", 0, 1])
async def test_whether_it_is_streamed(front: FrontEnd, stream: object) -> None:
    got = await ask(front, CHAT, {"messages": [HI], "max_tokens": 4, "stream": stream})
    is_stream = got.headers["content-type"].startswith("text/event-stream")
    assert is_stream == (stream in ("true", 1))


async def test_what_nobody_follows_is_named(front: FrontEnd) -> None:
    """vLLM would drop it without a word. What asks for nothing, or changes no answer, is not named."""
    off = {"mirostat": 0, "tfs_z": 1.0, "store": True, "metadata": {"a": "b"}, "samplers": []}
    sent = off | {"mirostat_tau": 5.0, "cache_prompt": True, "xtc_probability": 0.5, "num_ctx": 8}
    got = await answered(front, CHAT, {"messages": [HI], "max_tokens": 4, **sent})
    assert got["pipesd"]["ignored"] == ["mirostat_tau", "cache_prompt", "xtc_probability", "num_ctx"]


@pytest.mark.parametrize(
    "name", ["best_of", "functions", "audio", "web_search_options", "negative_prompt", "guidance_scale"]
)
async def test_what_an_answer_would_lack_is_refused(front: FrontEnd, name: str) -> None:
    got = await ask(front, CHAT, {"messages": [HI], name: [{"x": 3}]})
    assert (got.status_code, got.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize("route", ["default", "default:cloud"])
async def test_how_tokens_were_picked_is_told(front: FrontEnd, route: str) -> None:
    body = {"messages": [HI], "max_tokens": 4, "temperature": 0.5, "top_k": 9, "model": route}
    got = await answered(front, CHAT, body)
    assert got["pipesd"]["sampling"] == {
        "temperature": 0.5,
        "top_p": 1.0,
        "top_k": 9,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n_predict": 3, "max_tokens": 4}, "n_predict"),
        ({"grammar": "root ::= 'x'", "json_schema": SCHEMA}, "grammar"),
        ({"json_schema": SCHEMA, "response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_json": SCHEMA, "guided_regex": "x"}, "guided_regex"),
    ],
)
async def test_words_that_contradict_each_other(front: FrontEnd, body: dict[str, Any], param: str) -> None:
    got = await ask(front, CHAT, {"messages": [HI], **body})
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)


def test_the_rules_are_in_the_documentation() -> None:
    """Each has its line in the table, in the order in which they apply."""
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    table = text.partition("### How a body is read")[2].partition("\n\nReasoning comes")[0]
    names = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert names == list(RULES)
