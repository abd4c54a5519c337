"""An answer of vLLM's own front end over a session: drafted for, and put together over lost connections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from vllm.lora.request import LoRARequest

from edge_agent.api import (
    AnswerContinued,
    AnswerDrafts,
    AnswerEvent,
    AnswerHead,
    AnswerText,
    AskRequest,
    Fallback,
    GenerationChunk,
    GenerationStats,
    SessionMode,
    Source,
)
from edge_agent.control import Arm
from edge_agent.errors import (
    CloudError,
    CloudOverloaded,
    CloudUnreachable,
    DraftAnswers,
    VerifierTooOld,
)
from edge_agent.tracing import PromptKnown
from pipesd_vllm.api.target_identity import adapter_identity
from pipesd_vllm.wire import (
    Ask,
    Control,
    Downstream,
    Identity,
    Mode,
    Reply,
)
from tests.answers import Answer

from ...front_edge import Bench, DraftGate, FrontTransport, lines
from ...pipesd_vllm.api.front_end import SEED, FrontEnd, make_model
from .conftest import HastyLoop

pytestmark = pytest.mark.filterwarnings("ignore")
LOOP = HastyLoop

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
    }
]
CHATS: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "How is it?"}], "seed": SEED}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
CALL = 'Well: <tool_call>\n{"name": "weather", "arguments": {"city": "Zürich 🌦"}}\n</tool_call>'
THOUGHTS = "<think>I must äsk</think>" + CALL


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "deepseek_r1"]
    return FrontEnd(make_model(tmp_path_factory.mktemp("model")), *flags)


@pytest.fixture(autouse=True)
def as_new(front: FrontEnd) -> None:
    engine = front.engine
    engine.longest_piece, engine.breaks, engine.gate = 3, None, None
    engine.opened, engine.commands, engine.num_plain = [], [], 0


def asked(path: str, body: dict[str, Any], **fields: Any) -> AskRequest:
    data = json.dumps(body).encode()
    return AskRequest("r", path, data, mode=Mode.LATENCY, **fields)  # type: ignore[arg-type]


def answer_of(events: Sequence[AnswerEvent]) -> Answer:
    """Status and body, as the plain route's."""
    heads = [event for event in events if isinstance(event, AnswerHead)]
    assert len(heads) == 1
    body = b"".join(event.data for event in events if isinstance(event, AnswerText))
    streamed = body.startswith(b"data:")
    headers = {"content-type": "text/event-stream" if streamed else "application/json"}
    return Answer(heads[0].status, headers, body)


def stats_of(events: Sequence[AnswerEvent]) -> GenerationStats:
    return next(event for event in events if isinstance(event, AnswerHead)).stats


REQUESTS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (
        CHATS | {"tools": TOOLS, "n": 2, "temperature": 1.0} | STREAM,
        (THOUGHTS, "<think>so</think>" + CALL[:5]),
    ),
    (CHATS | {"tools": TOOLS}, (THOUGHTS,)),
    (CHATS | {"n": 2, "temperature": 0.7} | STREAM, ("<think>so</think>Yes wörld", "<think>never ends")),
    (CHATS | {"stop": ["wö"], "logprobs": True, "top_logprobs": 2} | STREAM, ("<think>a</think>Hi wörld",)),
]


@pytest.mark.parametrize(("body", "texts"), REQUESTS, ids=range(len(REQUESTS)))
async def test_an_answer_taken_over_after_every_other_frame_is_the_undisturbed_one(
    front: FrontEnd, body: dict[str, Any], texts: tuple[str, ...]
) -> None:
    """Wherever the line breaks, the client gets every event of every choice once and in order.

    The server's side of it, after every frame: tests/unit/pipesd_vllm/api/test_exchange.py.
    """
    front.engine.says(*texts)
    plain = await front.plain(CHAT, body)
    async with lines(front, -1) as whole:
        events = await Bench(front, texts, whole).events(asked(CHAT, body))
        num_frames = whole[0].num_received  # type: ignore[union-attr]
    assert answer_of(events).status == 200
    _same(answer_of(events), plain)
    for cut in range(0, num_frames, 2):
        async with lines(front, cut, -1) as two:
            events = await Bench(front, texts, two).events(asked(CHAT, body))
        _same(answer_of(events), plain)
        tokens: dict[int, list[int]] = {}
        for event in events:
            if isinstance(event, GenerationChunk):
                tokens.setdefault(event.stream, []).extend(event.token_ids)
        for stream, found in tokens.items():
            ids = front.engine.ids(texts[stream])
            assert found == ids[: len(found)]
            assert len(found) == len(ids) or "stop" in body
        lengths = [len(found) for found in tokens.values()]
        stats = stats_of(events)
        assert (stats.completion_tokens, stats.longest_tokens) == (sum(lengths), max(lengths))


def _same(got: Answer, plain: Answer) -> None:
    assert got.status == plain.status
    assert got.by_choice() == plain.by_choice() if plain.is_stream else got.whole() == plain.whole()


async def test_drafts_are_right_inside_the_arguments_of_a_call(front: FrontEnd) -> None:
    """The edge drafts from the server's own prompt; the target agrees with what it sent."""
    front.engine.says(CALL)
    front.engine.longest_piece = 1
    async with front.edge() as edge:
        bench = Bench(front, CALL, [DraftGate(front, edge)])
        events = await bench.events(asked(CHAT, CHATS | {"tools": TOOLS} | STREAM))
    place = CALL.encode().index("Zürich".encode())
    sources = [source for event in events if isinstance(event, GenerationChunk) for source in event.sources]
    assert Source.DRAFTED in sources[place : place + len("Zürich".encode())]
    stats = stats_of(events)
    assert stats.draft_tokens_sent > 10
    assert stats.seed == SEED
    prompt_len = next(event.prompt_len for event in bench.recorder.events if isinstance(event, PromptKnown))
    assert prompt_len == len(front.engine.opened[0][2]["prompt_token_ids"]) - 1


@pytest.mark.parametrize("mode", [Mode.LATENCY, Mode.OFFLOAD])
async def test_every_stream_is_drafted_for(front: FrontEnd, mode: Mode) -> None:
    """Each by its own text, as the mode says, whatever place the draft model has for them."""
    texts = (CALL, "No call, but an ürgent text: " + CALL[:30])
    front.engine.says(*texts)
    front.engine.longest_piece = 1
    body = CHATS | {"tools": TOOLS, "n": 2, "temperature": 1.0} | STREAM
    async with front.edge() as edge:
        line = DraftGate(front, edge)
        request = replace(asked(CHAT, body), mode=SessionMode(mode))
        events = await Bench(front, texts, [line]).events(request)
    _same(answer_of(events), await front.plain(CHAT, body))
    for stream in range(2):
        chunks = [e for e in events if isinstance(e, GenerationChunk) and e.stream == stream]
        sources = [source for chunk in chunks for source in chunk.sources]
        assert Source.DRAFTED in sources[len(sources) // 4 :]
    told = {(sent.stream, sent.mode) for sent in line.sent if isinstance(sent, Control) and sent.mode}
    assert told == (set() if mode is Mode.LATENCY else {(1, mode)})


async def test_drafts_are_shown_before_they_are_verified(front: FrontEnd) -> None:
    """Each set of drafts follows what is committed by then; most come true; without asking there are none."""
    front.engine.says(CALL)
    front.engine.longest_piece = 1
    committed: list[int] = []
    shown: list[tuple[int, int]] = []
    async with front.edge() as edge:
        bench = Bench(front, CALL, [DraftGate(front, edge)])
        events = await bench.events(asked(CHAT, CHATS | STREAM, shows_drafts=True))
    for event in events:
        if isinstance(event, GenerationChunk):
            committed += event.token_ids
        elif isinstance(event, AnswerDrafts):
            shown += [(len(committed) + i, token) for i, token in enumerate(event.token_ids)]
    right = [committed[place] == token for place, token in shown if place < len(committed)]
    assert sum(right) > len(right) / 2
    assert right.count(False) > 0  # one draft in seven is wrong
    stats = stats_of(events)
    assert stats.in_force in set(Arm)
    assert stats.in_force_reason
    assert stats.saved_passes == stats.completion_tokens - stats.target_passes
    body = b"".join(event.data for event in events if isinstance(event, AnswerText))
    assert stats.streamed_bytes == len(body) + len(asked(CHAT, CHATS | STREAM).body)
    assert stats.saved_bytes == stats.streamed_bytes - stats.uplink_bytes - stats.downlink_bytes
    async with front.edge() as edge:
        events = await Bench(front, CALL, [DraftGate(front, edge)]).events(asked(CHAT, CHATS | STREAM))
    assert not [event for event in events if isinstance(event, AnswerDrafts)]


async def test_what_a_session_cannot_do_is_answered_without_drafts(front: FrontEnd) -> None:
    """Marked, with the reason; asked for again if nothing had come, or else lost."""
    front.engine.says("Hello")
    body = CHATS | {"prompt_logprobs": 0, "stream": False}
    async with lines(front, -1) as line:
        events = await Bench(front, "Hello", line).events(asked(CHAT, body))
    stats = stats_of(events)
    assert (stats.drafted, stats.route_reason) == (False, "not drafted: prompt_logprobs")
    assert stats.first_token_s is not None
    assert not any(isinstance(event, GenerationChunk) for event in events)
    streamed = CHATS | {"echo": True, "logprobs": True} | STREAM
    async with lines(front, -1) as line:
        bench = Bench(front, "Hello", line)
        events = await bench.events(asked(CHAT, streamed))
        num_frames = line[0].num_received  # type: ignore[union-attr]
    assert not stats_of(events).drafted
    for cut in range(0, num_frames, 2):
        async with lines(front, cut, -1) as two:
            bench = Bench(front, "Hello", two)
            try:
                got = await bench.events(asked(CHAT, streamed))
            except CloudUnreachable:
                assert len(bench.agent._pool._connectors[0]._connector.remaining) == 1  # type: ignore[attr-defined]
            else:
                _same(answer_of(got), answer_of(events))


async def test_an_older_server_is_known_by_what_it_says(front: FrontEnd) -> None:
    """It takes no `Ask`, or speaks another version of the protocol: the caller can do something about it."""
    for changed in ({"features": []}, {"version": 1}):
        async with lines(front, -1, replace=lambda frame: msgspec.structs.replace(frame, **changed)) as line:  # noqa: B023
            with pytest.raises(VerifierTooOld):
                await Bench(front, "Hello", line).events(asked(CHAT, CHATS))


async def test_another_target_does_not_go_on(front: FrontEnd) -> None:
    front.engine.says("Hello")
    async with front.edge() as one, front.edge() as other:

        def as_another(frame: Downstream) -> Downstream:
            identity = Identity(weights="another")
            return msgspec.structs.replace(frame, identity=identity) if hasattr(frame, "identity") else frame

        def as_one(frame: Downstream) -> Downstream:
            identity = Identity(weights="one")
            return msgspec.structs.replace(frame, identity=identity) if hasattr(frame, "identity") else frame

        two = [FrontTransport(one, 5, as_one), FrontTransport(other, -1, as_another)]
        with pytest.raises(CloudUnreachable, match="other weights"):
            await Bench(front, "Hello", two).events(asked(CHAT, CHATS | STREAM))


@pytest.mark.parametrize("fallback", list(Fallback))
async def test_a_verifier_that_is_gone_for_good(front: FrontEnd, fallback: Fallback) -> None:
    """In mid-answer the draft model goes on with a plain text if the setting is `local`; or else an error."""
    if fallback is Fallback.WAIT:
        return
    text = "<think>a</think>Hello wide world"
    front.engine.says(text)
    ids = front.engine.ids(text)
    for may_continue in (False, True):
        async with lines(front, 7) as line:
            bench = Bench(front, text, line, fallback)
            request = asked(CHAT, CHATS | STREAM | {"max_tokens": 60}, may_continue_locally=may_continue)
            if fallback is Fallback.ERROR or not may_continue:
                with pytest.raises(CloudUnreachable):
                    await bench.events(request)
                continue
            events = await bench.events(request)
        at = next(i for i, event in enumerate(events) if isinstance(event, AnswerContinued))
        before = [t for e in events[:at] if isinstance(e, GenerationChunk) for t in e.token_ids]
        continued = events[at]
        assert isinstance(continued, AnswerContinued)
        assert list(continued.token_ids) == before == ids[: len(before)]
        assert list(continued.prompt_token_ids) == front.engine.opened[0][2]["prompt_token_ids"][:-1]
        after = [event for event in events[at + 1 :] if isinstance(event, GenerationChunk)]
        assert after
        assert not any(event.verified for event in after)
        assert (after[-1].stats.route, after[-1].stats.route_reason) == (
            "local",
            "verifier lost in mid-answer",
        )


@pytest.mark.parametrize("error", [CloudUnreachable("away"), CloudOverloaded("full")])
async def test_a_verifier_that_was_never_there(front: FrontEnd, error: CloudError) -> None:
    """The caller is told that the draft model is to answer, and why."""
    errors = [error] * 30
    bench = Bench(front, "Hello", errors, Fallback.LOCAL)
    with pytest.raises(DraftAnswers) as raised:
        await bench.events(asked(CHAT, CHATS))
    busy = isinstance(error, CloudOverloaded)
    assert raised.value.reason == ("verifier overloaded" if busy else "verifier out of reach")
    with pytest.raises(type(error)):
        await Bench(front, "Hello", errors).events(asked(CHAT, CHATS))


async def test_refusals_are_the_servers_own(front: FrontEnd) -> None:
    async with lines(front, -1) as line:
        events = await Bench(front, "Hello", line).events(asked(CHAT, CHATS | {"temperature": -3}))
    answer = answer_of(events)
    assert answer.status == 400
    assert b"temperature" in answer.body


async def test_a_server_that_is_full_is_asked_again(front: FrontEnd) -> None:
    """vLLM says 503 when its queue is full; nothing had been begun."""
    front.engine.says("Hello")

    def full(frame: Downstream) -> Downstream:
        return msgspec.structs.replace(frame, status=503) if isinstance(frame, Reply) else frame

    async with front.edge() as one, front.edge() as other:
        two = [FrontTransport(one, -1, full), FrontTransport(other)]
        bench = Bench(front, "Hello", two, Fallback.LOCAL)
        bench.agent._pool._max_idle = 0
        events = await bench.events(asked(CHAT, CHATS | {"max_tokens": 3, "temperature": 0}))
    assert answer_of(events).status == 200
    resumed = next(message for message in two[1].sent if isinstance(message, Ask))
    assert resumed.resume is not None


async def test_an_answer_of_a_lora_adapter_is_taken_over_with_its_identity(
    front: FrontEnd, tmp_path: Path
) -> None:
    """The second server can tell whether its adapter of that name is the same."""
    front.engine.says("Hello wörld")
    front.app.state.openai_serving_models.lora_requests["poet"] = LoRARequest("poet", 1, str(tmp_path))
    body = CHATS | {"model": "poet", "temperature": 0} | STREAM
    async with lines(front, -1) as line:
        undisturbed = answer_of(await Bench(front, "Hello", line).events(asked(CHAT, body)))
    async with lines(front, 6, -1) as two:
        answer = answer_of(await Bench(front, "Hello", two).events(asked(CHAT, body)))
        asks = [[message for message in line.sent if isinstance(message, Ask)] for line in two]  # type: ignore[union-attr]
    _same(answer, undisturbed)
    [[first], [second]] = asks
    assert first.resume is None
    assert second.resume is not None
    assert second.resume.adapter == adapter_identity(str(tmp_path))
    del front.app.state.openai_serving_models.lora_requests["poet"]


async def test_ids_that_no_draft_model_has(front: FrontEnd) -> None:
    """A prompt of such ids is vLLM's to refuse, whatever the mode; nothing is drafted from it."""
    async with lines(front, -1) as line:
        bench = Bench(front, "Hello", line)
        body = {"model": "m", "prompt": [7, 100_000], "max_tokens": 3}
        data = json.dumps(body).encode()
        request = AskRequest("r", "/v1/completions", data, mode=Mode.OFFLOAD)
        answer = answer_of(await bench.events(request))
    assert answer.status == 400
