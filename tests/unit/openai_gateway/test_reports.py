"""Kinds of faults that users of other servers reported, through each API that a client may use.

Where vLLM's own front end matters the cases are in test_cases.py.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from edge_agent.testing import FakeForwardedAnswer, FakeGenerator
from openai_gateway.app import create_app
from openai_gateway.errors import ApiError, refusal
from openai_gateway.translation.anthropic.encoder import error_body

MakeFake = Callable[..., FakeGenerator]
Post = Callable[..., Awaitable[httpx.Response]]

HI = [{"role": "user", "content": "x"}]
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI, "stream": True},
    "/v1/completions": {"prompt": "x", "stream": True},
    "/v1/messages": {"messages": HI, "max_tokens": 99, "stream": True},
    "/v1/responses": {"input": "x", "stream": True},
    "/api/chat": {"model": "default", "messages": HI},
    "/api/generate": {"model": "default", "prompt": "x"},
    "/completion": {"prompt": "x", "stream": True},
}


def piece_of(path: str, event: dict[str, Any]) -> str:
    """The text in one event of a stream."""
    match path:
        case "/v1/chat/completions":
            return str((event["choices"] or [{"delta": {}}])[0]["delta"].get("content") or "")
        case "/v1/completions":
            return str((event["choices"] or [{"text": ""}])[0]["text"])
        case "/v1/messages":
            return str(event["delta"]["text"]) if event["type"] == "content_block_delta" else ""
        case "/v1/responses":
            return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""
        case "/api/chat":
            return str(event["message"]["content"])
        case "/api/generate":
            return str(event["response"])
        case _:
            return str(event["content"])


ODD = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj\r\nk\x00l\ufeffm"


@pytest.mark.parametrize("path", STREAMS)
async def test_clients_that_split_at_any_line_end(generator_for: MakeFake, post: Post, path: str) -> None:
    """Python's `splitlines`, httpx's `iter_lines`: each event is whole, and no character is lost."""
    answer = await post(generator_for(ODD, chunk_tokens=3), path, STREAMS[path])
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    assert len([line for line in lines if line and line[0] not in "{:e["]) == 0
    assert "".join(piece_of(path, event) for event in events) == ODD


@pytest.mark.parametrize("path", STREAMS)
async def test_half_a_pair_of_surrogates(generator_for: MakeFake, post: Post, path: str) -> None:
    """Clients that cut a text in the middle of an emoji send one: a 400, not a fault of ours."""
    body = json.dumps(STREAMS[path] | {"user": "\ud83d"}).encode()
    assert (await post(generator_for(), path, body)).status_code == 400


@pytest.mark.parametrize("path", STREAMS)
async def test_proxies_are_asked_to_pass_streams_on(generator_for: MakeFake, post: Post, path: str) -> None:
    """nginx gathers without the one header, others compress without the other; whole answers have neither."""
    answer = await post(generator_for(), path, STREAMS[path], **{"accept-encoding": "gzip, br"})
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-store, no-transform"
    assert "content-encoding" not in answer.headers
    assert "content-length" not in answer.headers
    whole = await post(generator_for(), path, STREAMS[path] | {"stream": False})
    assert "x-accel-buffering" not in whole.headers


BEYOND = [
    (
        "This model's maximum context length is 4096 tokens. However, your prompt contains at least 5000 "
        "input tokens, which exceeds this limit even without any output tokens.",
        "5000 tokens > 4096 maximum",
    ),
    (
        "This model's maximum context length is 4096 tokens. However, you requested 0 output tokens and your "
        "prompt contains at least 5000 input tokens, for a total of at least 5000 tokens.",
        "5000 tokens > 4096 maximum",
    ),
    (
        "This model's maximum context length is 4096 tokens. However, you requested 5100 tokens (5000 in the "
        "messages, 100 in the completion). Please reduce the length of the messages or completion.",
        "5000 tokens > 4096 maximum",
    ),
    (
        "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens. "
        "Please reduce the length of the input messages.",
        "5000 tokens > 4096 maximum",
    ),
    (
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that "
        "`max_model_len` is no smaller than the number of text tokens.",
        "5000 tokens > 4096 maximum",
    ),
    (
        "The decoder prompt (length 4096) plus the number of requested output tokens (at least 1) is longer "
        "than the maximum model length of 4096. Make sure that `max_model_len` is no smaller.",
        "4096 tokens > 4096 maximum",
    ),
    ("Input length (5000) exceeds model's maximum context length (4096).", "5000 tokens > 4096 maximum"),
    (
        "The engine prompt length 5000 exceeds the max_model_len 4096. Please reduce prompt.",
        "5000 tokens > 4096 maximum",
    ),
    (
        "This model's maximum context length is 4096 tokens. However, your prompt contains 90000 characters "
        "(more than 65536 characters, which is the upper bound for 4096 input tokens).",
        "This model's maximum context length is 4096 tokens.",
    ),
]


@pytest.mark.parametrize(("message", "told"), BEYOND)
def test_a_prompt_beyond_the_context_in_any_words_of_vllm(message: str, told: str) -> None:
    """OpenAI's code, and Anthropic's sentence with both figures where they are known."""
    error = refusal(400, msgspec.json.encode({"error": {"message": message, "code": 400}}), ())
    assert isinstance(error, ApiError)
    assert error.code == "context_length_exceeded"
    assert message in error.message
    assert error_body(error)["error"]["message"].startswith(f"prompt is too long: {told}")


@pytest.mark.parametrize("path", [path for path in STREAMS if path != "/v1/responses"])
async def test_a_prompt_beyond_the_context_is_told_before_a_stream(
    generator_for: MakeFake, post: Post, path: str
) -> None:
    """With a status, in words that agents look for."""
    generator = generator_for()
    data = msgspec.json.encode({"error": {"message": BEYOND[0][0], "code": 400}})
    generator.cloud = lambda path, body: FakeForwardedAnswer(400, [data])
    answer = await post(generator, path, STREAMS[path])
    assert answer.status_code == 400
    assert "prompt is too long" in answer.text or "maximum context length" in answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_beyond_the_context_of_a_response(
    generator_for: MakeFake, post: Post, stream: bool
) -> None:
    """Codex compacts its conversation if a stream's last event has the code, which a status does not do."""
    generator = generator_for()
    data = msgspec.json.encode({"error": {"message": BEYOND[0][0], "code": 400}})
    generator.cloud = lambda path, body: FakeForwardedAnswer(400, [data])
    answer = await post(generator, "/v1/responses", {"input": "x", "stream": stream})
    if not stream:
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        return
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == [
        *("response.created", "response.in_progress", "response.failed")
    ]
    assert events[-1]["response"]["error"]["code"] == "context_length_exceeded"
    generator.cloud = lambda path, body: FakeForwardedAnswer(400, [b'{"error": {"message": "no such n"}}'])
    assert (await post(generator, "/v1/responses", {"input": "x", "stream": True})).status_code == 400


@pytest.mark.parametrize(
    ("keep_alive", "reason"),
    [
        *((nothing, "unload") for nothing in (0, 0.0, "0", "0s", "0m", "0h", "0ms", "0m0s", "-0")),
        *((time, "load") for time in (None, 5, -1, "-1", "5m", "1h30m", "-1m", "10s", "24h", 0.5)),
    ],
)
async def test_loading_and_unloading_in_any_words(
    generator_for: MakeFake, post: Post, keep_alive: object, reason: str
) -> None:
    """As a number of seconds, or as Go writes a time."""
    for path, more in (("/api/generate", {}), ("/api/chat", {}), ("/api/chat", {"messages": []})):
        answer = await post(generator_for(), path, {"model": "default", "keep_alive": keep_alive, **more})
        assert (answer.json()["done"], answer.json()["done_reason"]) == (True, reason)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/show", {"name": "default"}, 200),
        ("POST", "/api/show", {"model": "default", "verbose": True}, 200),
        ("POST", "/api/show", {"model": "llama3"}, 404),
        ("POST", "/api/pull", {"model": "default", "insecure": True}, 200),
        ("POST", "/api/pull", {"name": "llama3", "stream": False}, 404),
        ("DELETE", "/api/delete", {"model": "default"}, 501),
        ("POST", "/api/copy", {"source": "default", "destination": "x"}, 501),
        ("HEAD", "/api/blobs/sha256:0", None, 501),
        ("POST", "/api/blobs/sha256:0", {}, 501),
        ("GET", "/api/ps", None, 200),
        ("HEAD", "/api/version", None, 200),
        ("HEAD", "/api/tags", None, 200),
        ("POST", "/api/stop", {"model": "default"}, 404),
    ],
)
async def test_commands_of_ollama(
    generator_for: MakeFake,
    client_for: Callable[..., httpx.AsyncClient],
    method: str,
    path: str,
    body: object,
    status: int,
) -> None:
    """What there is to do is done, the rest says so in Ollama's shape."""
    async with client_for(create_app(generator_for())) as client:
        answer = await client.request(method, path, json=body)
    assert answer.status_code == status
    if status >= 400 and method != "HEAD":
        assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        # Ollama's, which once loaded models otherwise
        *(
            ("/api/chat", name, 1)
            for name in ("num_gqa", "rope_frequency_base", "f16_kv", "low_vram", "numa")
        ),
        *(("/api/chat", name, 1) for name in ("vocab_only", "logits_all", "use_mlock", "embedding_only")),
        *(("/api/chat", name, 2) for name in ("tfs_z", "typical_p", "penalize_newline", "mirostat_eta")),
        # llama-server's
        *(("/completion", name, 1) for name in ("slot_id", "id_slot", "n_keep", "n_discard", "n_probs")),
        *(("/completion", name, 1) for name in ("penalize_nl", "t_max_predict_ms", "post_sampling_probs")),
        # vLLM's
        ("/v1/chat/completions", "guided_decoding_backend", "outlines"),
        ("/v1/chat/completions", "guided_whitespace_pattern", "[ ]?"),
        ("/v1/chat/completions", "early_stopping", True),
        ("/v1/completions", "lora_request", {}),
        ("/v1/completions", "enable_response_messages", True),
    ],
)
async def test_options_of_former_versions_are_named(
    generator_for: MakeFake, post: Post, path: str, name: str, value: object
) -> None:
    """Where the answer can do without them; with a value that asks for nothing they would not be."""
    body = {**STREAMS[path], "stream": False}
    sent = body | ({"options": {name: value}} if path.startswith("/api") else {name: value})
    answer = await post(generator_for(), path, sent)
    assert answer.status_code == 200, answer.text
    assert answer.json()["pipesd"]["ignored"] == ([name] if value != {} else [])


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/api/generate", "context", [1, 2]),
        ("/api/generate", "template", "{{ .Prompt }}"),
        ("/completion", "image_data", [{"data": "x", "id": 1}]),
        ("/completion", "system_prompt", "Be brief."),
        ("/v1/completions", "best_of", 3),
        ("/v1/completions", "logits_processors", ["x"]),
        ("/v1/chat/completions", "functions", [{"name": "f"}]),
        ("/v1/chat/completions", "function_call", {"name": "f"}),
    ],
)
async def test_options_of_former_versions_that_change_the_answer_are_refused(
    generator_for: MakeFake, post: Post, path: str, name: str, value: object
) -> None:
    """By name, and taken where they ask for nothing."""
    answer = await post(generator_for(), path, STREAMS[path] | {name: value})
    assert answer.status_code == 400
    assert f"'{name}'" in answer.text
    for nothing in (None, type(value)() or None):
        body = STREAMS[path] | {name: nothing, "stream": False}
        assert (await post(generator_for(), path, body)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/chat/completions",
        "/v1/chat/completions?api-version=2024-06-01",
        "/v1/chat/completions/?beta=true",
        "///v1///chat///completions///",
        "/v1/api/v1/chat/completions",
        "/v1/chat/completions%20",
        "/v1/chat/completions%0A",
        "/v1%2Fchat/completions",
    ],
)
async def test_paths_with_odd_endings(generator_for: MakeFake, post: Post, path: str) -> None:
    """Base URLs that were put together wrongly, copied with a line's end, or sent with a version."""
    assert (await post(generator_for(), path, {"messages": HI})).status_code == 200
