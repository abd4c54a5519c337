"""Endpoints beside the chats: tokens, middles, embeddings, names, lists, what is out of scope."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer

from edge_agent.api import TargetInfo, TokenizerBundle
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator, Script
from openai_gateway.app import create_app
from openai_gateway.routing import ModelNames

from ..front_edge import ask
from ..pipesd_vllm.api.front_end import FrontEnd, make_model

pytestmark = pytest.mark.filterwarnings("ignore")

COMPLETIONS = "/v1/completions"
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>", "<|repo_name|>")
MakeFake = Callable[..., FakeGenerator]
Post = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    folder: Path = make_model(tmp_path_factory.mktemp("model"))
    return FrontEnd(folder)


async def test_tokens(front: FrontEnd) -> None:
    """vLLM's own answer to its words, llama-server's to its own; the text under both names."""
    ids = front.engine.ids("Hi you", ends=False)
    own = (await ask(front, "/tokenize", {"model": "default", "prompt": "Hi you"})).json()
    assert (own["tokens"], own["count"], own["max_model_len"]) == (ids, len(ids), 4096)
    assert (await ask(front, "/tokenize", {"content": "Hi you"})).json() == {"tokens": ids}
    text = (await ask(front, "/detokenize", {"tokens": ids})).json()
    assert text == {"prompt": "Hi you", "content": "Hi you"}


async def test_the_prompt_of_a_chat(front: FrontEnd) -> None:
    """As vLLM renders it, from its template."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    got = (await ask(front, "/apply-template", {"messages": messages, "tools": []})).json()
    assert got["prompt"] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant"
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": 3}),
        ("/detokenize", {"tokens": "x"}),
        ("/apply-template", {}),
        ("/apply-template", {"messages": [], "reasoning_effort": "low", "chat_template_kwargs": [1]}),
    ],
)
async def test_tokens_of_nothing(front: FrontEnd, path: str, body: dict[str, Any]) -> None:
    """vLLM's refusal, or ours, is a 400."""
    assert (await ask(front, path, body)).status_code == 400


async def test_props(generator_for: MakeFake, target: TargetInfo) -> None:
    """What llama-server's clients look for: context, template, marks."""
    transport = httpx.ASGITransport(create_app(generator_for()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        props = (await client.get("/props")).json()
    assert props["default_generation_settings"]["n_ctx"] == target.max_model_len
    assert "<|im_start|>" in props["chat_template"]
    assert props["eos_token"] == "<|im_end|>"


@pytest.fixture
def coder(bundle: TokenizerBundle, script_for: Callable[..., Script]) -> FakeGenerator:
    """An agent whose target has tokens for a middle."""
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in FIM])
    known = replace(bundle, tokenizer_json=tokenizer.to_str())
    return FakeGenerator(TargetInfo("org/coder", 256, tokenizer.get_vocab_size()), known, script_for("hello"))


def sent(generator: FakeGenerator) -> dict[str, Any]:
    [(path, body)] = generator.forwarded
    assert path == COMPLETIONS
    return body


PROMPT = "<|fim_prefix|>def f(<|fim_suffix|>): pass<|fim_middle|>"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "def f(", "suffix": "): pass"}),
        (COMPLETIONS, {"prompt": ["def f("], "suffix": "): pass"}),
        ("/infill", {"input_prefix": "def f(", "input_suffix": "): pass"}),
        ("/infill", {"input_prefix": "def ", "prompt": "f(", "input_suffix": "): pass", "n_predict": 5}),
        ("/api/generate", {"model": "default", "prompt": "def f(", "suffix": "): pass", "stream": False}),
    ],
    ids=["openai", "list", "llama-server", "begun", "ollama"],
)
async def test_a_middle(coder: FakeGenerator, post: Post, path: str, body: dict[str, Any]) -> None:
    """Every server's way to ask becomes the target's own tokens, and is drafted for as a completion."""
    answer = await post(coder, path, body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-pipesd-route"].startswith("collaborative")
    asked = sent(coder)
    assert asked["prompt"] == PROMPT
    assert "suffix" not in asked
    added = Tokenizer.from_str((await coder.tokenizer()).tokenizer_json)
    assert added.token_to_id("<|file_sep|>") in asked["stop_token_ids"]
    found = answer.json()
    text = found["choices"][0]["text"] if "choices" in found else found.get("content") or found["response"]
    assert text == "hello"


async def test_a_middle_among_files(coder: FakeGenerator, post: Post) -> None:
    """What an editor tells of other files stands in front, as the model was trained with it."""
    extra = [{"filename": "a.py", "text": "x = 1"}]
    await post(coder, "/infill", {"input_prefix": "def f(", "input_suffix": "): pass", "input_extra": extra})
    expected = f"<|repo_name|>project\n<|file_sep|>a.py\nx = 1\n<|file_sep|>this\n{PROMPT}"
    assert sent(coder)["prompt"] == expected


@pytest.mark.parametrize(
    ("path", "body"),
    [(COMPLETIONS, {"prompt": "a", "suffix": "b"}), ("/infill", {"input_prefix": "a", "input_suffix": "b"})],
)
async def test_a_middle_of_a_model_that_has_none(
    generator_for: MakeFake, post: Post, path: str, body: dict[str, Any]
) -> None:
    """vLLM would leave the suffix out without a word."""
    answer = await post(generator_for(), path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "suffix")


@pytest.mark.parametrize(
    "body",
    [{"prompt": [1], "suffix": "b"}, {"prompt": ["a", "b"], "suffix": "c"}, {"prompt": "a", "suffix": 3}],
)
async def test_a_middle_between_no_texts(coder: FakeGenerator, post: Post, body: dict[str, Any]) -> None:
    assert (await post(coder, COMPLETIONS, body)).status_code == 400


@pytest.mark.parametrize("name", ["input_prefix", "input_suffix", "prompt"])
async def test_parts_that_are_no_texts(coder: FakeGenerator, post: Post, name: str) -> None:
    """Token ids are refused by name, not written out as a text."""
    body = {"input_prefix": "a", "input_suffix": "b", name: [1, 2]}
    answer = await post(coder, "/infill", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize(
    ("limits", "num"), [({"n_predict": None}, 2), ({"max_new_tokens": 1}, 1), ({"max_tokens": 1}, 1), ({}, 2)]
)
async def test_limits_of_llama_servers_completions(
    generator_for: MakeFake, post: Post, limits: dict[str, Any], num: int
) -> None:
    """Any name of it counts; without one, or with null, the answer goes on to its end."""
    generator = generator_for("hello world")
    answer = await post(generator, "/completion", {"prompt": "x"} | limits)
    assert answer.status_code == 200, answer.text
    assert sent(generator)["max_tokens"] == (1 if num == 1 else (await generator.target()).max_model_len)


async def test_completions_of_llama_server(generator_for: MakeFake, post: Post) -> None:
    """Pieces with `content`, the last with `stop` and the figures; no [DONE]."""
    streamed = await post(generator_for("hello world"), "/completion", {"prompt": "x", "stream": True})
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    *pieces, last = events
    assert "".join(piece["content"] for piece in pieces) == "hello world"
    assert not any(piece["stop"] for piece in pieces)
    assert (last["stop"], last["content"], last["stop_type"]) == (True, "", "eos")
    whole = (await post(generator_for("hello world"), "/completion", {"prompt": "x", "n_predict": 1})).json()
    assert (whole["stop_type"], whole["tokens_predicted"]) == ("limit", 1)


async def test_raw_prompts_of_ollama(generator_for: MakeFake, post: Post) -> None:
    """Taken as they are."""
    generator = generator_for("hello")
    body = {"model": "default", "prompt": "<|im_start|>x", "raw": True, "stream": False}
    assert (await post(generator, "/api/generate", body)).json()["response"] == "hello"
    assert sent(generator)["prompt"] == "<|im_start|>x"


VECTORS = {
    "data": [{"index": 1, "embedding": [3]}, {"index": 0, "embedding": [1, 2]}],
    "usage": {"prompt_tokens": 5},
}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/embeddings", {"input": ["a", "b"], "model": "default"}, VECTORS),
        (
            "/api/embed",
            {"model": "m", "input": ["a", "b"]},
            {"embeddings": [[1, 2], [3]], "prompt_eval_count": 5},
        ),
        ("/api/embeddings", {"model": "m", "prompt": "a"}, {"embedding": [1, 2]}),
        ("/api/embed", {"model": "m", "input": []}, {"embeddings": []}),
        ("/api/embeddings", {"model": "m", "prompt": ""}, {"embedding": []}),
    ],
)
@pytest.mark.parametrize("other", [False, True], ids=["server", "other"])
async def test_embeddings(
    generator_for: MakeFake, path: str, body: dict[str, Any], expected: dict[str, Any], other: bool
) -> None:
    """Asked of the vLLM server, or of another one, by OpenAI's path; answered in the client's shape."""
    generator, server = generator_for(), generator_for()
    asked = server if other else generator
    asked.cloud = lambda path, body: FakeForwardedAnswer(200, [msgspec.json.encode(VECTORS)])
    app = create_app(generator, embeddings=server if other else None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert expected.items() <= answer.json().items()
    for asked_path, told in asked.forwarded:
        assert asked_path == "/v1/embeddings"
        assert told.get("model") == ("m" if other and body["model"] == "m" else None)


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("nomic", "nomic"),
        ("nomic:latest", "nomic:latest"),
        ("org/target", None),
        ("Org/Target:latest", None),
        ("gpt-4o:latest", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("any_model", [False, True])
async def test_names_of_another_embeddings_server(
    generator_for: MakeFake, name: str | None, sent: str | None, any_model: bool
) -> None:
    """Its own names reach it, also where the target answers to any; the target's names mean its default."""
    server = generator_for()
    server.cloud = lambda path, body: FakeForwardedAnswer(200, [msgspec.json.encode(VECTORS)])
    names = ModelNames.parse(["gpt-4o"], any_model=any_model)
    app = create_app(generator_for(), embeddings=server, names=names)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        await client.post("/v1/embeddings", json={"model": name, "input": "x"})
    assert server.forwarded[0][1].get("model") == sent


async def test_the_other_embeddings_server_is_let_go_with_the_application(generator_for: MakeFake) -> None:
    """The agent is its caller's to close."""
    generator, server = generator_for(), generator_for()
    app = create_app(generator, embeddings=server)
    async with app.router.lifespan_context(app):
        assert not server.closed
    assert (server.closed, generator.closed) == (True, False)


@pytest.mark.parametrize(
    "data", [b"{}", b'{"data": 3}', b'{"data": [1]}', b'{"data": [{"index": 0}]}', b"[]"]
)
async def test_embeddings_that_are_none(generator_for: MakeFake, post: Post, data: bytes) -> None:
    """An answer of another shape is the server's mistake."""
    generator = generator_for()
    generator.cloud = lambda path, body: FakeForwardedAnswer(200, [data])
    assert (await post(generator, "/api/embed", {"model": "m", "input": "x"})).status_code == 502


async def test_no_embeddings(generator_for: MakeFake, post: Post) -> None:
    """A server of a text model has none: how to name one that does."""
    generator = generator_for()
    generator.cloud = lambda path, body: FakeForwardedAnswer(404, [b'{"detail": "Not Found"}'])
    answer = await post(generator, "/v1/embeddings", {"input": "x"})
    assert answer.status_code == 501
    assert "--embeddings-url" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    ["/v1/rerank", "/rerank", "/v1/audio/speech", "/v1/images/generations", "/api/create", "/api/push"],
)
async def test_out_of_scope(generator_for: MakeFake, post: Post, path: str) -> None:
    """A 501 in the protocol's shape that says what is out of scope."""
    answer = await post(generator_for(), path, {})
    assert answer.status_code == 501
    error = answer.json()["error"]
    assert "Out of scope" in (error if path.startswith("/api") else error["message"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/messages", 405),
        ("PUT", "/v1/messages", 405),
        ("PUT", "/api/chat", 405),
        ("GET", "/api/chat", 405),
        ("POST", "/api/nothing", 404),
        ("POST", "/v1/messages/nothing", 404),
        ("PATCH", "/v1/responses", 405),
    ],
)
async def test_errors_of_the_router_have_the_protocols_shape(
    generator_for: MakeFake, method: str, path: str, status: int
) -> None:
    transport = httpx.ASGITransport(create_app(generator_for()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.request(method, path)
    assert answer.status_code == status
    body = answer.json()
    if path.startswith("/api"):
        assert isinstance(body["error"], str)
    elif path.startswith("/v1/messages"):
        assert body["type"] == "error"
    else:
        assert body["error"].keys() == {"message", "type", "param", "code"}


NAMES = ModelNames.parse(["gpt-4o", "fast=default:local"])


async def got(generator: FakeGenerator, method: str, path: str, **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(generator, names=NAMES))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, path, **more)


async def test_aliases_are_listed_and_served(generator_for: MakeFake) -> None:
    """In OpenAI's list, Anthropic's and Ollama's; requests by them are the target's."""
    names = ["org/target", "org/target:cloud", "org/target:local", "gpt-4o", "fast"]
    openai = (await got(generator_for(), "GET", "/v1/models")).json()["data"]
    assert [card["id"] for card in openai] == names
    version = {"anthropic-version": "2023-06-01"}
    anthropic = (await got(generator_for(), "GET", "/v1/models", headers=version)).json()
    assert [entry["id"] for entry in anthropic["data"]] == names
    assert {entry["type"] for entry in anthropic["data"]} == {"model"}
    assert (anthropic["first_id"], anthropic["has_more"]) == ("org/target", False)
    one = (await got(generator_for(), "GET", "/v1/models/gpt-4o", headers=version)).json()
    assert (one["id"], one["type"]) == ("gpt-4o", "model")
    tags = (await got(generator_for(), "GET", "/api/tags")).json()["models"]
    assert [model["name"] for model in tags] == names
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "stream": False}),
    ):
        assert (await got(generator_for(), "POST", path, json={"model": "gpt-4o", **body})).status_code == 200


@pytest.mark.parametrize(
    "name", ["gpt-4o:latest", "GPT-4o", "gpt-4o/", "org/target:latest", "Org/Target", "fast:latest"]
)
async def test_names_with_ollamas_tag(generator_for: MakeFake, name: str) -> None:
    """Wherever a name can stand: in a body of each API, in a path, in what is shown and pulled."""
    messages = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    for path, body in (
        ("/v1/chat/completions", messages),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/messages", messages),
        ("/v1/responses", {"input": "x"}),
        ("/api/chat", messages),
        ("/api/generate", {"prompt": "x"}),
        ("/api/show", {}),
        ("/api/pull", {}),
    ):
        answer = await got(generator_for(), "POST", path, json={"model": name, **body})
        assert answer.status_code == 200, (path, answer.text)
    listed = "fast" if name.startswith("fast") else "gpt-4o" if "gpt" in name.lower() else "org/target"
    assert (await got(generator_for(), "GET", f"/v1/models/{name}")).json()["id"] == listed


@pytest.mark.parametrize("name", ["org/target", "gpt-4o", "default", "org/target:latest"])
async def test_pulling_what_is_there(generator_for: MakeFake, name: str) -> None:
    """Clients pull before they ask: nothing is to be fetched, and that is a success."""
    streamed = await got(generator_for(), "POST", "/api/pull", json={"model": name})
    assert json.loads(streamed.text.splitlines()[-1]) == {"status": "success"}
    whole = await got(generator_for(), "POST", "/api/pull", json={"name": name, "stream": False})
    assert whole.json() == {"status": "success"}
    assert (await got(generator_for(), "POST", "/api/pull", json={"model": "llama3"})).status_code == 404


async def test_ollama_is_running(generator_for: MakeFake) -> None:
    """The words that its clients look for; a browser gets the page."""
    assert (await got(generator_for(), "GET", "/")).text == "Ollama is running"
    assert (await got(generator_for(), "HEAD", "/")).status_code == 200
    page = await got(generator_for(), "GET", "/", headers={"accept": "text/html"})
    assert "<html" in page.text
