"""An `Ask` is answered as vLLM's own route answers its body, chunk by chunk, also by two servers in turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from pipesd_vllm.api.exchange import resumed_body
from pipesd_vllm.api.target_identity import adapter_identity
from pipesd_vllm.scheduling import AddDrafts, DecodeAlone, SetEager
from pipesd_vllm.wire import (
    Ask,
    Begun,
    Cancel,
    CloseReason,
    Commit,
    CommittedStream,
    Control,
    Downstream,
    Draft,
    Mode,
    Open,
    Part,
    RefusalCode,
    Refused,
    Resume,
    Sampling,
    Text,
    decode_downstream,
    encode,
    prompt_guess,
    said_since,
)
from tests.answers import Answer

from .front_end import SEED, FrontEnd, answered, ask, both, cut, make_model, same, until

pytestmark = pytest.mark.filterwarnings("ignore")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
NAMED = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CHATS: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "How is it?"}], "seed": SEED}
PROMPTS: dict[str, Any] = {"model": "m", "prompt": "Once", "seed": SEED, "max_tokens": 90}
USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
HERMES = 'Well: <tool_call>\n{"name": "weather", "arguments": {"city": "Zürich 🌦"}}\n</tool_call>'
TWICE = HERMES + '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
CODER = "<tool_call>\n<function=weather>\n<parameter=city>\nZürich 🌦\n</parameter>\n</function>\n</tool_call>"
FORCED = '[{"name": "weather", "parameters": {"city": "Bern"}}]'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def hermes(model: Path) -> FrontEnd:
    return FrontEnd(model, "--enable-auto-tool-choice", "--tool-call-parser", "hermes")


@pytest.fixture(scope="module")
def deepseek(model: Path) -> FrontEnd:
    """A parser of the old kind, which tells thoughts from text by the last token alone."""
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "deepseek_r1"]
    return FrontEnd(model, *flags)


@pytest.fixture(scope="module")
def qwen(model: Path) -> FrontEnd:
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", "qwen3_coder", "--reasoning-parser", "qwen3"]
    return FrontEnd(model, *flags)


@pytest.fixture
def front(request: pytest.FixtureRequest) -> FrontEnd:
    """The front end that a test names, as new."""
    front: FrontEnd = request.getfixturevalue(getattr(request, "param", "hermes"))
    engine = front.engine
    engine.longest_piece, engine.breaks, engine.gate = 3, None, None
    engine.opened, engine.commands, engine.num_plain, engine.adapters = [], [], 0, []
    return front


# -- equal to the plain answer ---------------------------------------------------------------

REQUESTS: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    ("hermes", CHAT, CHATS, ("Hello wörld 🌦.",)),
    ("hermes", CHAT, CHATS | {"n": 2, "temperature": 0.7}, ("yes", "no wäy 🌦")),
    ("hermes", CHAT, CHATS | {"max_tokens": 5}, ("too long",)),
    ("hermes", CHAT, CHATS | {"stop": ["three", "wo"]}, ("one twö three four",)),
    (
        "hermes",
        CHAT,
        CHATS | {"stop": "fö", "include_stop_str_in_output": True, "n": 2},
        ("two fövier", "no"),
    ),
    ("hermes", CHAT, CHATS | {"stop": ["e"], "min_tokens": 9}, ("we see the sea here",)),
    ("hermes", CHAT, CHATS | {"logprobs": True, "top_logprobs": 3}, ("wörld 🌦",)),
    ("hermes", CHAT, CHATS | {"logprobs": True, "return_token_ids": True}, ("wörld",)),
    ("hermes", CHAT, CHATS | {"response_format": {"type": "json_object"}}, ('{"a": 1}',)),
    ("hermes", CHAT, CHATS | {"tools": TOOLS}, (HERMES,)),
    ("hermes", CHAT, CHATS | {"tools": TOOLS, "n": 2}, (HERMES, "No call, but an ürgent text")),
    ("hermes", CHAT, CHATS | {"tools": TOOLS}, (TWICE,)),
    ("hermes", CHAT, CHATS | {"tools": TOOLS, "parallel_tool_calls": False}, (TWICE,)),
    ("hermes", CHAT, CHATS | {"tools": TOOLS, "max_tokens": 50}, (HERMES,)),
    ("hermes", CHAT, CHATS | {"tools": TOOLS, "tool_choice": "none"}, ("text",)),
    ("hermes", CHAT, CHATS | {"tools": TOOLS, "tool_choice": "required"}, (FORCED,)),
    ("hermes", CHAT, CHATS | {"tools": TOOLS, "tool_choice": "required"}, (HERMES[6:],)),
    ("hermes", CHAT, CHATS | {"tools": TOOLS, "tool_choice": NAMED}, (HERMES[6:],)),
    ("hermes", COMPLETIONS, PROMPTS, ("upon a tïme",)),
    ("hermes", COMPLETIONS, PROMPTS | {"echo": True, "n": 2}, ("upon", "again")),
    ("hermes", COMPLETIONS, PROMPTS | {"logprobs": 2, "stop": ["ïm"]}, ("upon a tïme",)),
    ("hermes", COMPLETIONS, PROMPTS | {"prompt": ["Once", "Twice"]}, ("upon a tïme",)),
    ("hermes", COMPLETIONS, PROMPTS | {"prompt": ["a", "b"], "n": 2, "temperature": 1}, ("upon", "a tïme")),
    ("hermes", COMPLETIONS, PROMPTS | {"prompt": [7, 8, 9]}, ("upon",)),
    ("deepseek", CHAT, CHATS, ("<think>so it is</think>The änswer",)),
    ("deepseek", CHAT, CHATS | {"include_reasoning": False, "logprobs": True}, ("<think>so</think>Yes",)),
    ("deepseek", CHAT, CHATS | {"tools": TOOLS}, ("<think>I must äsk</think>" + HERMES,)),
    ("deepseek", CHAT, CHATS | {"n": 2, "stop": ["END"]}, ("<think>so</think>Yes END", "<think>never ends")),
    ("qwen", CHAT, CHATS, ("<think>\nso it is</think>\n\nThe änswer",)),
    ("qwen", CHAT, CHATS | {"chat_template_kwargs": {"enable_thinking": False}}, ("no thoughts",)),
    (
        "qwen",
        CHAT,
        CHATS | {"tools": TOOLS, "n": 2},
        ("<think>\nHm.</think>\n\n" + CODER, "<think>x</think>no"),
    ),
]


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("front", "path", "body", "texts"), REQUESTS, ids=range(len(REQUESTS)), indirect=["front"]
)
async def test_an_ask_is_answered_as_the_plain_route_answers(
    front: FrontEnd, path: str, body: dict[str, Any], texts: tuple[str, ...], streamed: bool
) -> None:
    """Every chunk of every choice is the same, whatever pieces the tokens are committed in."""
    front.engine.says(*texts)
    got = await both(front, path, body | ({"stream": True, **USAGE} if streamed else {}))
    assert got.status == 200, got.body
    assert all(begun.drafted for begun in got.begun)
    assert len(got.streams) == body.get("n", 1) * len(got.begun)
    for stream, seen in got.streams.items():
        assert seen.finish_reason is not None, stream


@pytest.mark.parametrize("front", ["deepseek"], indirect=True)
async def test_calls_and_thoughts_are_taken_apart(front: FrontEnd) -> None:
    """The grid above compares with the plain answer; this one says that there is something to compare."""
    front.engine.says("<think>I must äsk</think>" + HERMES)
    got = await both(front, CHAT, CHATS | {"tools": TOOLS, "stream": True})
    _, (choices, _) = got.comparable()
    delta = choices[0]["delta"]
    assert delta["reasoning"] == "I must äsk"
    assert delta["content"] == "Well: "
    assert json.loads(delta["tool_calls"][0]["function"]["arguments"]) == {"city": "Zürich 🌦"}
    assert choices[0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("front", ["qwen"], indirect=True)
async def test_the_engine_is_asked_what_the_plain_request_asks(front: FrontEnd) -> None:
    """But for stop strings; the grammar is told of thoughts, and the prompt is in the tenant's cache."""
    front.engine.says('<think>so</think>{"a": 1}')
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
    await both(front, CHAT, CHATS | form | {"stop": ["x"], "temperature": 0.5, "n": 2})
    for offset, (command, params, prompt) in enumerate(front.engine.opened):
        assert command.reasoning_ended is False
        assert command.reasoning_parser_kwargs is not None
        assert command.reasoning_parser_kwargs["chat_template_kwargs"]["add_generation_prompt"]
        assert params.structured_outputs.json == SCHEMA
        assert (params.n, params.seed, params.temperature) == (1, SEED + offset, 0.5)
        assert prompt["cache_salt"] == "salt"
    await both(front, CHAT, CHATS | {"cache_salt": "mine"})
    assert front.engine.opened[-1][2]["cache_salt"] not in ("salt", "mine")


# -- LoRA adapters ---------------------------------------------------------------------------


@pytest.fixture
def poet(front: FrontEnd, tmp_path: Path) -> Iterator[Path]:
    """The folder of an adapter that the front end serves as `poet`."""
    adapters = front.app.state.openai_serving_models.lora_requests
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    adapters["poet"] = LoRARequest("poet", 1, str(tmp_path))
    yield tmp_path
    del adapters["poet"]


async def test_an_ask_may_name_a_lora_adapter(front: FrontEnd, poet: Path) -> None:
    """As the model of its body; vLLM's answer says the same name, and the edge learns which adapter it is."""
    front.engine.says("yes")
    got = await both(front, COMPLETIONS, PROMPTS | {"model": "poet"})
    assert [adapter.lora_name for adapter in front.engine.adapters] == ["poet", "poet"]
    assert got.begun[0].drafted
    assert got.begun[0].adapter == adapter_identity(str(poet))
    got = await both(front, COMPLETIONS, PROMPTS)
    assert front.engine.adapters[2:] == [None, None]
    assert got.begun[0].adapter == ""


async def test_only_the_same_adapter_takes_an_answer_over(front: FrontEnd, poet: Path) -> None:
    """Not the base model, nor other weights of the same name."""
    front.engine.says("yes")
    committed = [CommittedStream(front.engine.ids("y", ends=False))]
    own, body = adapter_identity(str(poet)), PROMPTS | {"model": "poet"}
    (poet / "adapter_config.json").write_text("{}", encoding="utf-8")
    new = adapter_identity(str(poet))
    assert new != own
    async with front.edge() as edge:
        for adapter in ("", own):
            edge.send(ask(COMPLETIONS, body, resume=Resume([], committed, [], adapter)))
            frame = await edge.frame()
            assert isinstance(frame, Refused)
            assert frame.code is RefusalCode.NOT_RESUMABLE
        got = Answer()
        got.resumes(resume := Resume([], committed, [], new))
        edge.send(ask(COMPLETIONS, body, resume=resume))
        while not got.is_whole:
            got.add(await edge.frame())
    same(got, await front.plain(COMPLETIONS, body))


async def test_a_turn_of_tokens_may_name_a_lora_adapter(front: FrontEnd, poet: Path) -> None:
    """One that the server does not have is refused, and the connection goes on."""
    front.engine.says("yes")
    async with front.edge() as edge:
        edge.send(Open(1, [7], Sampling(8), Mode.LATENCY, adapter="painter"))
        frame = await edge.frame()
        assert isinstance(frame, Refused)
        assert (frame.code, "painter" in frame.message) == (RefusalCode.UNKNOWN_ADAPTER, True)
        edge.send(Open(2, [7], Sampling(8), Mode.LATENCY, adapter="poet"))
        while not isinstance(frame := await edge.frame(), Commit) or frame.finish_reason is None:
            pass
    assert [adapter.lora_name for adapter in front.engine.adapters] == ["poet"]


# -- what the edge is told -------------------------------------------------------------------


async def test_the_edge_learns_prompt_seeds_and_sampling(front: FrontEnd) -> None:
    """A right guess of the prompt is not answered with the prompt; one that is wrong, or none, is."""
    front.engine.says("yes", "no")
    body = CHATS | {"n": 2, "top_p": 0.9, "max_tokens": 20, "seed": None}
    async with front.edge() as edge:
        begun = (await edge.answer(ask(CHAT, body))).begun[0]
        assert begun.sampling is not None
        assert (begun.sampling.top_p, begun.sampling.max_tokens) == (0.9, 20)
        assert begun.seeds == [begun.sampling.seed, begun.sampling.seed + 1]  # type: ignore[operator]
        text = "<|im_start|>user\nHow is it?<|im_end|>\n<|im_start|>assistant"
        assert begun.prompt == front.engine.ids(text, ends=False)
        right, wrong = prompt_guess(begun.prompt), prompt_guess(begun.prompt[1:])
        edge.send(ask(CHAT, body, guess=right))
        assert (await edge.frame()).prompt == []  # type: ignore[union-attr]
        edge.send(ask(CHAT, body, guess=wrong))
        while not isinstance(frame := await edge.frame(), Begun):
            pass
        assert frame.prompt == begun.prompt


async def test_commits_come_before_their_text(front: FrontEnd) -> None:
    """Drafting waits for the commit; what the tokens say can wait for a frame."""
    front.engine.says("Hello")
    front.engine.longest_piece = 1
    async with front.edge() as edge:
        edge.send(ask(CHAT, CHATS | {"stream": True}))
        answer, order = Answer(), []
        while not answer.is_whole:
            frame = await edge.frame()
            answer.add(frame)
            order.append(type(frame).__name__)
    assert order[0] == "Begun"
    assert order.index("Commit") < order.index("Text")
    assert order.count("Commit") == len("Hello") + 1


async def test_drafts_and_controls_reach_their_stream(front: FrontEnd) -> None:
    """Of two streams each has its own; of a turn that has ended, none."""
    front.engine.says("yes", "no")
    front.engine.gate = asyncio.Event()
    front.engine.longest_piece = 1
    async with front.edge() as edge:
        edge.send(ask(CHAT, CHATS | {"n": 2, "temperature": 1}, mode=Mode.OFFLOAD))
        answer = Answer()
        while len([seen for seen in answer.streams.values() if seen.tokens]) < 2:
            answer.add(await edge.frame())
        assert [command.eager for command, _, _ in front.engine.opened] == [False, True]
        base = len(answer.begun[0].prompt) + 1
        edge.send(
            Draft(1, 1, base, 0, [5, 6], stream=1),
            Draft(1, 1, base, 0, [5], stream=9),
            Draft(2, 1, base, 0, [4]),
            Control(1, Mode.LATENCY),
            Control(1, alone=True, stream=1),
            Control(3, Mode.LATENCY),
        )
        await until(lambda: len(front.engine.commands) >= 3)
        [added] = [command for command in front.engine.commands if isinstance(command, AddDrafts)]
        assert replace(added, delay_s=None) == AddDrafts(1, base, 0, True, None)
        for command in (SetEager(True), DecodeAlone()):
            assert front.engine.commands.count(command) == 1
        front.engine.gate.set()
        while not answer.is_whole:
            answer.add(await edge.frame())


async def test_an_answer_that_nobody_drafts_for_goes_on_alone(front: FrontEnd) -> None:
    """In every mode, and it is never refused: a turn with a client behind it must end."""
    front.engine.says("yes")
    front.engine.gate = asyncio.Event()
    async with front.edge(suspend_after_s=9.0, abandon_after_s=0.05) as edge:
        edge.send(ask(CHAT, CHATS, mode=Mode.OFFLOAD))
        await until(lambda: any(isinstance(command, DecodeAlone) for command in front.engine.commands))


async def test_a_body_larger_than_a_frame_comes_in_parts(front: FrontEnd) -> None:
    """Its limit is a setting."""
    front.engine.says("yes")
    big = json.dumps(CHATS).encode() + b" " * (3 << 20)
    async with front.edge() as edge:
        assert (await edge.answer(ask(CHAT, big))).status == 200
    for last, frames in (
        (CloseReason.TOO_LARGE, [Part(b"x" * (1 << 20)), Part(b"x")]),
        (CloseReason.BAD_FRAME, [Part(b"x"), Cancel(1)]),
        (CloseReason.BAD_FRAME, [Part(b"x", True)]),
        (CloseReason.BAD_FRAME, [Part(encode(Part(b"", True)), True)]),
    ):
        async with front.edge(max_message_bytes=1 << 20) as edge:
            edge.send(*frames)
            event = await edge.event()
            assert event["type"] == "websocket.close"
            assert event["reason"].startswith(last)


async def test_what_the_last_body_said_need_not_be_said_again(front: FrontEnd) -> None:
    """On its connection, also where it came in parts before; elsewhere it is a body that nobody sent."""
    front.engine.says("yes")
    first = json.dumps(CHATS).encode()
    second = json.dumps(
        CHATS | {"messages": [*CHATS["messages"], {"role": "user", "content": "So?"}]}
    ).encode()
    whole = ask(CHAT, second)
    short = said_since(whole, first)
    assert len(short.body) < len(second) / 2
    plain = await front.plain(CHAT, second)
    data = encode(ask(CHAT, first))
    async with front.edge() as edge:
        await edge.answer(Part(data[:40]), Part(data[40:-1]), Part(data[-1:], True))
        same(await edge.answer(short), plain)
    async with front.edge() as edge:
        edge.send(short)
        event = await edge.event()
        assert event["type"] == "websocket.close"
        assert event["reason"].startswith(CloseReason.BAD_FRAME)


# -- what a session cannot do ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"prompt_logprobs": 1}),
        (CHAT, {"thinking_token_budget": 3}),
        (CHAT, {"vllm_xargs": {"a": 1}}),
        (CHAT, {"repetition_detection": {"max_pattern_size": 4, "min_count": 3}}),
        (CHAT, {"echo": True}),
        (COMPLETIONS, {"allowed_token_ids": [3] * 1025}),
    ],
)
async def test_what_a_session_cannot_do_is_left_to_vllm(
    front: FrontEnd, path: str, fields: dict[str, Any]
) -> None:
    """The answer is vLLM's all the same, or its refusal; the edge learns why nothing can be drafted."""
    front.engine.says("yes")
    body = (CHATS if path == CHAT else PROMPTS) | fields
    plain = await front.plain(path, body)
    async with front.edge() as edge:
        got = await edge.answer(ask(path, body))
    same(got, plain)
    assert got.status != 200 or [begun.drafted for begun in got.begun] == [False]
    assert not got.streams
    assert not front.engine.opened


async def test_beam_search_is_left_to_vllm(front: FrontEnd) -> None:
    """Its requests want no text. They are told of once, however many there are."""
    front.engine.says("yes")
    async with front.edge() as edge:
        got = await edge.answer(ask(CHAT, CHATS | {"use_beam_search": True, "n": 2, "max_tokens": 3}))
    assert [(begun.drafted, begun.reason) for begun in got.begun] == [(False, "beam search")]
    assert not front.engine.opened


# -- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[1]",
        CHATS | {"temperature": -4},
        CHATS | {"messages": "x"},
        CHATS | {"model": "another"},
        CHATS | {"messages": [{"role": "user", "content": "word " * 2000}]},
        CHATS | {"logit_bias": {"99999": 1}},
        CHATS | {"stop_token_ids": [1] * 3, "min_tokens": 99, "max_tokens": 3},
    ],
    ids=range(8),
)
async def test_refusals_are_vllms_own(front: FrontEnd, body: Any, streamed: bool) -> None:
    """Status and body."""
    front.engine.says("yes")
    if isinstance(body, dict) and streamed:
        body = body | {"stream": True}
    plain = await front.plain(CHAT, body)
    async with front.edge() as edge:
        got = await edge.answer(ask(CHAT, body))
    assert (got.status, got.body) == (plain.status, plain.body)
    assert plain.status >= 400 or b'"error"' in plain.body


async def test_the_connections_key_is_the_apps(front: FrontEnd) -> None:
    """Nothing is answered that vLLM would not answer to the same key."""
    async with front.edge("sk-another") as edge:
        got = await edge.answer(ask(CHAT, CHATS))
    assert (got.status, got.begun) == (401, [])


async def test_what_the_engine_refuses_is_vllms_own_refusal(front: FrontEnd) -> None:
    """Parameters are checked once more when the engine takes them."""
    front.engine.says("yes")
    front.engine.breaks = (0, VLLMValidationError("not this one"))
    async with front.edge() as edge:
        got = await edge.answer(ask(CHAT, CHATS))
    assert got.status == 400
    assert "not this one" in got.whole()["error"]["message"]


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
async def test_a_stream_that_fails_is_vllms_own_failure(front: FrontEnd, streamed: bool) -> None:
    """As that of a plain request: the engine goes on."""
    front.engine.says("yes, it is")
    front.engine.breaks = (3, "error")
    async with front.edge() as edge:
        got = await edge.answer(ask(CHAT, CHATS | {"stream": streamed}))
    error = got.events()[-2]["error"] if streamed else got.whole()["error"]
    assert error["code"] == 500
    assert got.status == (200 if streamed else 500)


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("breaks", "reason"),
    [(EngineDeadError(), CloseReason.ENGINE_DEAD), ("abort", CloseReason.ENGINE_STOPPING)],
)
@pytest.mark.parametrize("fields", [{}, {"prompt_logprobs": 0}], ids=["drafted", "undrafted"])
async def test_an_engine_that_ends_ends_the_line(
    front: FrontEnd, breaks: Any, reason: CloseReason, streamed: bool, fields: dict[str, Any]
) -> None:
    """No error reaches the client: another server may go on."""
    front.engine.says("yes, it is")
    front.engine.breaks = (3, breaks)
    async with front.edge() as edge:
        edge.send(ask(CHAT, CHATS | {"stream": streamed} | (fields if not streamed else {})))
        answer = Answer()
        while (event := await edge.event())["type"] == "websocket.send":
            answer.add(decode_downstream(event["bytes"]))
    assert event["reason"].startswith(reason)
    assert b"error" not in answer.body
    assert not answer.is_whole


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
async def test_an_engine_that_has_died_answers_nothing(
    front: FrontEnd, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM would say 500 before the first token; the edge is to try another server."""
    monkeypatch.setattr(front.engine, "errored", True)
    async with front.edge() as edge:
        edge.send(ask(CHAT, CHATS | {"stream": streamed}))
        event = await edge.event()
    assert event["type"] == "websocket.close"
    assert event["reason"].startswith(CloseReason.ENGINE_DEAD)


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
async def test_a_cancelled_answer_leaves_nothing(front: FrontEnd, streamed: bool) -> None:
    """Neither requests in the engine nor frames on the line, on which the next answer follows."""
    front.engine.says("yes, it is", "no")
    front.engine.gate = asyncio.Event()
    async with front.edge() as edge:
        edge.send(ask(CHAT, CHATS | {"stream": streamed, "n": 2, "temperature": 1}))
        while not isinstance(await edge.frame(), Commit):
            pass
        edge.send(Cancel(1))
        await until(lambda: not front.engine.num_running)
        front.engine.gate = None
        edge.send(Ask(2, CHAT, json.dumps(CHATS).encode(), "r"))
        frames: list[Downstream] = []
        while not (isinstance(frame := await edge.frame(), Text) and frame.turn == 2 and frame.last):
            frames.append(frame)
        first = next(place for place, frame in enumerate(frames) if frame.turn == 2)  # type: ignore[union-attr]
        assert all(frame.turn == 2 for frame in frames[first:])  # type: ignore[union-attr]


# -- taken over ------------------------------------------------------------------------------


TAKEN: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    (
        "qwen",
        CHAT,
        CHATS | {"tools": TOOLS, "n": 2, "temperature": 1, "stop": ["END"]},
        ("<think>\nHm.</think>\n\nWëll " + CODER, "<think>No</think>I do not, END at all"),
    ),
    ("deepseek", CHAT, CHATS | {"tools": TOOLS, "max_tokens": 80}, ("<think>Hm</think>" + HERMES,)),
    ("hermes", CHAT, CHATS | {"logprobs": True, "top_logprobs": 2, "stop": ["ör"]}, ("Hello wörld",)),
    ("hermes", COMPLETIONS, PROMPTS | {"prompt": ["a", "b"], "logprobs": 1, "echo": False}, ("tïme",)),
]


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("front", "path", "body", "texts"), TAKEN, ids=range(4), indirect=["front"])
async def test_an_answer_taken_over_after_every_frame_is_the_undisturbed_one(
    front: FrontEnd, path: str, body: dict[str, Any], texts: tuple[str, ...], streamed: bool
) -> None:
    """Every chunk of every choice once and in order, wherever the line was lost; a commit has one token."""
    front.engine.says(*texts)
    front.engine.longest_piece = 1
    body = body | ({"stream": True, **USAGE} if streamed else {})
    undisturbed, frames = await answered(front, path, body)
    assert undisturbed.status == 200
    assert sum(isinstance(frame, Commit) for frame in frames) >= sum(
        len(seen.tokens) for seen in undisturbed.streams.values()
    )
    places = range(len(frames)) if streamed else range(0, len(frames), 7)
    for place in places:
        held, resume = cut(frames, place)
        rest, _ = await answered(front, path, body, resume)
        assert rest.status == 200
        if not streamed:
            assert rest.whole() == undisturbed.whole()
            continue
        before, after = held.by_choice() if held.status else {}, rest.by_choice()
        whole = {choice: before.get(choice, []) + after.get(choice, []) for choice in {*before, *after}}
        whole[None] = after[None]  # usage and the end are not counted: an edge that has them is done
        assert whole == undisturbed.by_choice(), f"cut after frame {place}"


async def test_only_what_is_left_is_asked_of_the_engine(front: FrontEnd) -> None:
    """A stream that had ended opens no request; the other brings its tokens along."""
    front.engine.says("yes", "no wäy")
    body = CHATS | {"n": 2, "temperature": 1}
    ended, begun = front.engine.ids("yes"), front.engine.ids("no w", ends=False)
    resume = Resume([], [CommittedStream(ended, finish_reason="stop"), CommittedStream(begun)])
    plain = await front.plain(CHAT, body)
    async with front.edge() as edge:
        answer = Answer()
        answer.resumes(resume)
        edge.send(ask(CHAT, body, resume=resume))
        while not answer.is_whole:
            answer.add(await edge.frame())
    same(answer, plain)
    assert [command.committed for command, _, _ in front.engine.opened] == [begun]


async def test_what_cannot_be_taken_over_is_refused(front: FrontEnd) -> None:
    """Another prompt, a part of an answer without drafts, tokens without the log-probabilities asked for."""
    front.engine.says("yes")
    async with front.edge() as edge:
        for fields, resume in (
            ({"prompt": "Once"}, Resume([1, 2], [], [1])),
            ({"prompt_logprobs": 1}, Resume([], [], [1])),
            ({"logprobs": 1}, Resume([], [CommittedStream(front.engine.ids("y", ends=False))])),
        ):
            edge.send(ask(COMPLETIONS, PROMPTS | fields, resume=resume))
            while not isinstance(frame := await edge.frame(), Refused):
                pass
            assert frame.code is RefusalCode.NOT_RESUMABLE


async def test_tokens_that_no_server_committed_close_the_line(front: FrontEnd) -> None:
    """Ids outside the vocabulary, and log-probabilities of some tokens only."""
    one = Resume([], [CommittedStream([9999])])
    other = Resume([], [CommittedStream([1], [])])
    for resume, reason in ((one, CloseReason.BAD_TOKEN), (other, CloseReason.BAD_FRAME)):
        async with front.edge() as edge:
            edge.send(ask(CHAT, CHATS, resume=resume))
            assert (await edge.event())["reason"].startswith(reason)


def test_a_chat_taken_over_keeps_its_first_prompt() -> None:
    """Its template may say another date by now. What cannot be read is for vLLM to refuse."""
    resume = Resume([1, 2])
    body = json.loads(resumed_body(CHAT, b'{"model": "m"}', resume))  # type: ignore[arg-type]
    assert body == {"model": "m", "kv_transfer_params": {"prompt_token_ids": [1, 2]}}
    for kept in (b"{", b"[]", b'{"return_prompt_text": true}', b'{"kv_transfer_params": {"a": 1}}'):
        assert resumed_body(CHAT, kept, resume) == kept  # type: ignore[arg-type]
    assert resumed_body(COMPLETIONS, b"{}", resume) == resumed_body(CHAT, b"{}", None) == b"{}"  # type: ignore[arg-type]
