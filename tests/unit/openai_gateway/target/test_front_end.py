"""The gateway's answers are those of vLLM's own front end, drafted for: tools, thoughts, `n`, logprobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from vllm.lora.request import LoRARequest

from edge_agent.api import Fallback
from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeGenerator
from edge_agent.verifier import CloudApi
from openai_gateway.app import create_app
from openai_gateway.routing import LISTED_FOR_S
from pipesd_vllm.wire import Part, encode_in_parts

from ...front_edge import Bench, DraftGate, FrontTransport, lines
from ...pipesd_vllm.api.front_end import KEY, SEED, FrontEnd, make_model

pytestmark = pytest.mark.filterwarnings("ignore")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
    }
]
CHATS: dict[str, Any] = {"messages": [{"role": "user", "content": "How is it?"}], "seed": SEED}
PROMPTS: dict[str, Any] = {"prompt": "Once", "seed": SEED, "max_tokens": 40}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CALL = 'Well: <tool_call>\n{"name": "weather", "arguments": {"city": "Zürich 🌦"}}\n</tool_call>'
OURS = ("pipesd", "timings", "system_fingerprint", "id", "created", "reasoning_content")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def front(model: Path) -> FrontEnd:
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "deepseek_r1"]
    return FrontEnd(model, *flags)


@pytest.fixture(autouse=True)
def as_new(front: FrontEnd) -> None:
    engine = front.engine
    engine.longest_piece, engine.breaks, engine.gate, engine.num_plain = 3, None, None, 0


async def ask(bench: Bench, path: str, body: Mapping[str, Any], **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(bench.agent))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, json=body, headers=headers, timeout=60.0)
    finally:
        await bench.agent.close()


def without_ours(value: Any) -> Any:
    """What vLLM said, without what differs between two answers and our additions."""
    if isinstance(value, dict):
        kept = {name: without_ours(each) for name, each in value.items() if name not in OURS}
        if not kept.get("arguments", "x"):
            del kept["arguments"]  # with the name of a call, which clients expect and vLLM leaves out
        return kept
    return [without_ours(each) for each in value] if isinstance(value, list) else value


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


REQUESTS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    (CHAT, CHATS | {"tools": TOOLS}, ("<think>I must äsk</think>" + CALL,)),
    (CHAT, CHATS | {"tools": TOOLS, "tool_choice": "required"}, ("<think>a</think>" + CALL[6:],)),
    (CHAT, CHATS | {"n": 2, "temperature": 0.7}, ("<think>so</think>yes", "<think>so</think>no wäy 🌦")),
    (CHAT, CHATS | {"logprobs": True, "top_logprobs": 3, "stop": ["rl"]}, ("<think>a</think>wörld",)),
    (CHAT, CHATS | {"thinking": False}, ("no thoughts",)),
    (COMPLETIONS, PROMPTS | {"logprobs": 2, "stop": ["ïm"]}, ("upon a tïme",)),
    (COMPLETIONS, PROMPTS | {"echo": True, "n": 2}, ("upon", "again")),
    (COMPLETIONS, PROMPTS | {"prompt": ["Once", "Twice"]}, ("upon a tïme",)),
]


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("path", "body", "texts"), REQUESTS, ids=range(len(REQUESTS)))
async def test_the_answer_is_vllms_own(
    front: FrontEnd, path: str, body: dict[str, Any], texts: tuple[str, ...], streamed: bool
) -> None:
    """Event by event, or all of it; on the collaborative route, whatever the request asks for."""
    front.engine.says(*texts)
    body = body | (USAGE if streamed else {})
    told = {name: value for name, value in body.items() if name != "thinking"}
    if "thinking" in body:
        told["chat_template_kwargs"] = {"enable_thinking": False}
    plain = await front.plain(path, told)
    front.engine.num_plain = 0
    async with lines(front, -1) as line:
        got = await ask(Bench(front, texts[0], line), path, body)
    assert front.engine.num_plain == 0
    assert got.headers["x-pipesd-route"] == "collaborative; reason=default"
    if streamed:
        by_choice: list[dict[Any, list[Any]]] = []
        for all_of in (events(got.text), events(plain.body.decode())):
            found: dict[Any, list[Any]] = {}
            for event in all_of:
                choices = event.get("choices") if isinstance(event, dict) else None
                found.setdefault(choices[0]["index"] if choices else None, []).append(without_ours(event))
            by_choice.append(found)
        assert by_choice[0] == by_choice[1]
        last = events(got.text)[-2]
    else:
        assert without_ours(got.json()) == without_ours(json.loads(plain.body))
        last = got.json()
    assert (last["pipesd"]["route"], last["pipesd"]["drafted"]) == ("collaborative", True)
    assert last["timings"]["predicted_n"] == last["usage"]["completion_tokens"]


async def test_drafts_are_accepted_inside_the_arguments_of_a_call(front: FrontEnd) -> None:
    """A coding agent's requests all offer tools: their calls are drafted for as any text is."""
    said = "<think>a</think>" + CALL
    front.engine.says(said)
    front.engine.longest_piece = 1
    body = CHATS | {"tools": TOOLS, "stream": True}
    async with front.edge() as edge:
        headers = {"x-pipesd-provenance": "1", "x-pipesd-mode": "latency"}
        got = await ask(Bench(front, said, [DraftGate(front, edge)]), CHAT, body, **headers)
    drafted = [
        (span["source"], event["choices"][0]["delta"].get("tool_calls"))
        for event in events(got.text)[:-1]
        for span in (event.get("pipesd") or {}).get("provenance", ())
    ]
    assert any(source == "drafted" and calls for source, calls in drafted)
    last = events(got.text)[-2]
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert last["pipesd"]["draft_tokens_sent"] > 10


async def test_what_a_session_cannot_do_is_marked(front: FrontEnd) -> None:
    """It is answered, never refused because of us."""
    front.engine.says("<think>a</think>Hello")
    for streamed in (False, True):
        async with lines(front, -1) as line:
            body = (
                CHATS | {"prompt_logprobs": 1} if not streamed else CHATS | {"echo": True, "logprobs": True}
            )
            got = await ask(Bench(front, "Hello", line), CHAT, body | ({"stream": True} if streamed else {}))
        assert got.status_code == 200
        last = events(got.text)[-2] if streamed else got.json()
        assert last["pipesd"]["drafted"] is False
        assert last["pipesd"]["reason"].startswith("not drafted: ")
        assert last["pipesd"]["ttft_ms"] is not None


async def test_what_vllm_refuses_is_its_own_400(front: FrontEnd) -> None:
    for streamed in (False, True):
        async with lines(front, -1) as line:
            got = await ask(
                Bench(front, "Hello", line), CHAT, CHATS | {"temperature": -1, "stream": streamed}
            )
        assert got.status_code == 400
        assert got.json()["error"]["param"] == "temperature"


async def test_a_body_larger_than_a_frame(front: FrontEnd) -> None:
    """It goes up in parts, and is answered as a small one is."""
    front.engine.says("<think>a</think>Hello")
    unread = {"metadata": {"x": "y" * 3_000_000}}  # a field that nobody reads
    async with lines(front, -1) as line:
        got = await ask(Bench(front, "Hello", line), CHAT, CHATS | unread)
        [transport] = line
        assert isinstance(transport, FrontTransport)
        parts = list(encode_in_parts(transport.sent[0]))
    assert len(parts) == 3
    assert len(Part(parts[0]).data) <= 1 << 20
    assert got.json()["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize("api", ["messages", "responses", "ollama"])
async def test_other_protocols_stand_on_the_same_answers(front: FrontEnd, api: str) -> None:
    """A tool call in each of them, collaborative."""
    front.engine.says("<think>a</think>" + CALL)
    schema = TOOLS[0]["function"]["parameters"]  # type: ignore[index]
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "messages": (
            "/v1/messages",
            {
                "model": "m",
                "max_tokens": 200,
                "messages": [{"role": "user", "content": "hi"}],
                "tools": [{"name": "weather", "input_schema": schema}],
            },
        ),
        "responses": (
            "/v1/responses",
            {
                "model": "m",
                "input": "hi",
                "tools": [{"type": "function", "name": "weather", "parameters": schema}],
            },
        ),
        "ollama": (
            "/api/chat",
            {
                "model": "m",
                "messages": [{"role": "user", "content": "hi"}],
                "tools": TOOLS,
                "stream": False,
            },
        ),
    }
    path, body = bodies[api]
    async with lines(front, -1) as line:
        got = await ask(Bench(front, CALL, line), path, body)
    assert got.status_code == 200, got.text
    assert got.headers["x-pipesd-route"].startswith("collaborative")
    assert "Zürich 🌦" in json.dumps(got.json(), ensure_ascii=False)


async def test_one_of_several_targets_is_drafted_for_as_it_is_alone(
    front: FrontEnd, generator_for: Callable[..., FakeGenerator]
) -> None:
    """The same answer as from a gateway of its own, by its name; the first one answers to its own."""
    front.engine.script = lambda prompt, offset: front.engine.ids("Hello, you over there")
    answers, first = [], generator_for("hello world")
    for name, is_alone in (("m", True), ("m", False), ("default", False)):
        async with lines(front, -1) as line:
            bench = Bench(front, "Hello, you over there", line)
            others = {} if is_alone else {"http://other": bench.agent}
            transport = httpx.ASGITransport(create_app(bench.agent if is_alone else first, others=others))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                answers.append((await client.post(CHAT, json=CHATS | {"model": name}, timeout=60.0)).json())
            await bench.agent.close()
    alone, beside, firsts = answers
    assert without_ours(alone) == without_ours(beside)
    assert (beside["pipesd"]["route"], beside["pipesd"]["drafted"]) == ("collaborative", True)
    assert firsts["choices"][0]["message"]["content"] == "hello world"


# -- LoRA adapters ---------------------------------------------------------------------------


@pytest.fixture
def poet(front: FrontEnd, tmp_path: Path) -> Iterator[None]:
    """The server has an adapter of that name."""
    adapters = front.app.state.openai_serving_models.lora_requests
    adapters["poet"] = LoRARequest("poet", 1, str(tmp_path))
    yield
    del adapters["poet"]


@pytest.mark.parametrize(("name", "route"), [("poet", "collaborative"), ("poet:cloud", "cloud")])
async def test_a_lora_adapter_answers_to_its_name(front: FrontEnd, poet: None, name: str, route: str) -> None:
    """Drafted for or passed on, though nobody has listed the models before; its answer says the name."""
    front.engine.says("upon a tïme")
    front.engine.adapters = []
    plain = await front.plain(COMPLETIONS, PROMPTS | {"model": "poet"})
    async with lines(front, -1) as line:
        got = await ask(Bench(front, "upon a tïme", line), COMPLETIONS, PROMPTS | {"model": name})
    assert got.headers["x-pipesd-route"].startswith(f"{route}; ")
    assert without_ours(got.json()) == without_ours(json.loads(plain.body))
    assert got.json()["model"] == "poet"
    assert [adapter.lora_name for adapter in front.engine.adapters] == ["poet", "poet"]


async def test_the_draft_model_is_no_adapter(front: FrontEnd, poet: None) -> None:
    """It does not answer in one's place, as it would in the target's."""
    bench = Bench(front, "Hello", [CloudUnreachable("away")] * 9, Fallback.LOCAL)
    got = await ask(bench, COMPLETIONS, PROMPTS | {"model": "poet"})
    assert (got.status_code, "'model' needs the server" in got.text) == (503, True), got.text


async def test_adapters_are_listed_as_the_server_has_them_now(front: FrontEnd, poet: None) -> None:
    """Servers load them and drop them as they run. The name of one that is gone is the server's to refuse."""
    adapters = front.app.state.openai_serving_models.lora_requests
    now_s = 0.0
    bench = Bench(front, "Hello", [], clock=lambda: now_s)
    transport = httpx.ASGITransport(create_app(bench.agent))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def listed() -> list[str]:
            return [card["id"] for card in (await client.get("/v1/models")).json()["data"]]

        assert await listed() == ["m", "m:cloud", "m:local", "poet"]
        assert (await client.get("/v1/models/poet")).json()["id"] == "poet"
        local = await client.post(COMPLETIONS, json=PROMPTS | {"model": "poet:local"})
        assert (local.status_code, local.json()["error"]["code"]) == (404, "model_not_found")
        gone = adapters.pop("poet")
        refused = await client.post(COMPLETIONS, json=PROMPTS | {"model": "poet:cloud"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "model")
        now_s += LISTED_FOR_S + 1
        assert await listed() == ["m", "m:cloud", "m:local"]
        adapters["poet"] = gone
    await bench.agent.close()


async def test_adapters_are_told_from_models_by_vllms_own_list(
    front: FrontEnd, poet: None, tmp_path: Path
) -> None:
    transport = httpx.ASGITransport(front.app)
    api = CloudApi("http://front", KEY, 5.0, tmp_path, transport)
    assert await api.adapters() == ("poet",)
    await api.close()
