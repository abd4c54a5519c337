"""The same server gives the same answer through an `Ask`, whatever is drafted, as through its plain API."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx
import msgspec
import pytest

from benchmarks.exactness.drafts import DraftMaker
from pipesd_vllm.wire import ASK, Ask, AskPath, Begun, Commit, Control, Mode, Resume
from tests.answers import Answer, assert_close
from tests.conftest import Verifier

from .session_client import DEADLINE_S, Edge, edge_of, until_idle

pytestmark = pytest.mark.engine

CHAT: AskPath = "/v1/chat/completions"
COMPLETIONS: AskPath = "/v1/completions"
NUM_TOKENS = 20
SEED = 17
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 6}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORM = {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}}
GRID: dict[str, tuple[AskPath, dict[str, Any]]] = {
    "chat": (CHAT, {}),
    "chat, n=3": (CHAT, {"n": 3}),
    "chat, logprobs": (CHAT, {"logprobs": True, "top_logprobs": 3}),
    "chat, stop": (CHAT, {"stop": ["e", "the"], "include_stop_str_in_output": True}),
    "chat, stop, min_tokens": (CHAT, {"stop": ["a"], "min_tokens": 8}),
    "chat, schema": (CHAT, FORM),
    "chat, regex": (CHAT, {"structured_outputs": {"regex": "[a-f]{4,9}-[0-9]{2}"}}),
    "chat, tools auto": (CHAT, {"tools": [TOOL]}),
    "chat, tools required": (CHAT, {"tools": [TOOL], "tool_choice": "required", "max_tokens": 40}),
    "chat, tools named": (
        CHAT,
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    "chat, penalties": (CHAT, {"frequency_penalty": 0.8, "repetition_penalty": 1.2, "top_p": 0.9}),
    "completion": (COMPLETIONS, {}),
    "completion, n=3, logprobs": (COMPLETIONS, {"n": 3, "logprobs": 2}),
    "completion, echo": (COMPLETIONS, {"echo": True}),
    "completion, echo, logprobs": (COMPLETIONS, {"echo": True, "logprobs": 1}),
    "completion, two prompts": (COMPLETIONS, {"prompt": ["Once upon a time", "In the city of"], "n": 2}),
    "completion, stop": (COMPLETIONS, {"stop": [" the", "an"]}),
    "completion, ids": (COMPLETIONS, {"prompt": [504, 2365, 282, 260], "return_token_ids": True}),
    "completion, min_p": (COMPLETIONS, {"min_p": 0.05, "logit_bias": {"28": -100}, "bad_words": ["the"]}),
}
UNDRAFTED = {"completion, echo, logprobs"}
OTHERS = ("river", "daughter")


def body_of(
    verifier: Verifier, name: str, *, temperature: float, streamed: bool, topic: str = "city"
) -> dict[str, Any]:
    path, fields = GRID[name]
    say = {"messages": [{"role": "user", "content": f"Tell me of a {topic}."}]}
    body = {"model": verifier.model, "max_tokens": NUM_TOKENS, "temperature": temperature}
    body |= say if path == CHAT else {"prompt": f"The {topic} of"}
    if temperature:
        body["seed"] = SEED
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body | fields


async def plainly(verifier: Verifier, path: str, body: dict[str, Any]) -> Answer:
    async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client:
        answer = await client.post(verifier.base_url + path, json=body, headers=verifier.headers)
    return Answer(answer.status_code, dict(answer.headers), answer.content)


class DraftsForAnswers:
    """An edge that has seen the answer, and drafts it, or lies, for every stream; none decodes without it."""

    def __init__(self, edge: Edge, turn: int, truth: Answer, rng: random.Random) -> None:
        self._edge = edge
        self._turn = turn
        self._truth = truth
        self._rng = rng
        self._makers: dict[int, DraftMaker] = {}

    async def after(self, frame: object, answer: Answer) -> None:
        """Draft what follows a commit."""
        if isinstance(frame, Begun):
            for place in range(len(frame.seeds)):
                stream = frame.first + place
                self._makers[stream] = DraftMaker(
                    self._turn, len(frame.prompt), self._truth.streams[stream].tokens
                )
                await self._edge.send(Control(self._turn, Mode.OFFLOAD, stream=stream))
        if not isinstance(frame, Commit) or frame.finish_reason is not None:
            return
        kind = self._rng.choice(("right", "right", "half", "wrong"))
        done = len(answer.streams[frame.stream].tokens)
        for draft in self._makers[frame.stream].frames(kind, self._rng.randint(1, 8), done):
            await self._edge.send(msgspec.structs.replace(draft, stream=frame.stream))


async def asked(
    verifier: Verifier, path: AskPath, body: dict[str, Any], truth: Answer | None = None, seed: int = 0
) -> Answer:
    """The answer to an `Ask`; under random drafts if its tokens are known, or else decoded by the server."""
    async with edge_of(verifier) as edge:
        assert ASK in edge.welcome.features
        mode = Mode.LATENCY if truth is None else Mode.OFFLOAD
        await edge.send(Ask(1, path, json.dumps(body).encode(), "equal", mode))
        drafts = None if truth is None else DraftsForAnswers(edge, 1, truth, random.Random(seed))
        answer = Answer()
        while not answer.is_whole:
            frame = await edge.receive()
            answer.add(frame)
            if drafts is not None:
                await drafts.after(frame, answer)
        return answer


@pytest.mark.parametrize("name", GRID)
@pytest.mark.parametrize("topic", ["city", *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)])
async def test_an_answer_is_that_of_the_plain_route(verifier: Verifier, name: str, topic: str) -> None:
    """Text, calls, finish and stop reasons, usage and log-probabilities, decoded alone and under drafts.

    At T = 0 and 1, as a stream and whole, all at once. Of all topics: 228 requests.
    """
    path, _ = GRID[name]
    bodies = [
        body_of(verifier, name, temperature=temperature, streamed=streamed, topic=topic)
        for temperature in (0.0, 1.0)
        for streamed in (False, True)
    ]
    await asyncio.gather(*(compare(verifier, name, path, body) for body in bodies))


async def compare(verifier: Verifier, name: str, path: AskPath, body: dict[str, Any]) -> None:
    plain, alone = await asyncio.gather(plainly(verifier, path, body), asked(verifier, path, body))
    if body.get("n", 1) > 1 and not body["temperature"]:  # vLLM gives one greedy answer
        assert (alone.status, alone.body) == (plain.status, plain.body)
        assert plain.status == 400
        return
    assert plain.status == 200, plain.body
    assert [begun.drafted for begun in alone.begun] == [name not in UNDRAFTED] * len(alone.begun)
    assert_close(alone.comparable(), plain.comparable())
    if name in UNDRAFTED:
        return
    drafted = await asked(verifier, path, body, alone)
    assert_close(drafted.comparable(), plain.comparable())
    for stream, seen in drafted.streams.items():
        known = alone.streams[stream].tokens  # with a stop string, some may be committed beyond it
        shorter = min(len(known), len(seen.tokens))
        assert seen.tokens[:shorter] == known[:shorter]


async def test_drafts_of_an_answer_are_accepted(verifier: Verifier) -> None:
    """The grid's drafts are looked at: most of these are right, and save passes, in every stream."""
    body = body_of(verifier, "chat, n=3", temperature=1.0, streamed=True) | {"max_tokens": 60}
    alone = await asked(verifier, CHAT, body)
    drafted = await asked(verifier, CHAT, body, alone)
    assert all(seen.accepted > 0 for seen in drafted.streams.values())
    assert drafted.by_choice() == alone.by_choice()


@pytest.mark.parametrize("name", ["chat, n=3", "chat, schema", "chat, tools required", "chat, logprobs"])
async def test_an_answer_goes_on_on_another_connection(verifier: Verifier, name: str) -> None:
    """Each chunk of each choice once and in order, wherever the line was cut."""
    body = body_of(verifier, name, temperature=1.0, streamed=True)
    undisturbed = await asked(verifier, CHAT, body)

    async def cut_after(number: int) -> None:
        held = Answer()
        ask = Ask(1, CHAT, json.dumps(body).encode(), f"taken-{number}", Mode.LATENCY)
        async with edge_of(verifier) as edge:
            await edge.send(ask)
            for _ in range(number):
                if not held.is_whole:
                    held.add(await edge.receive())
            edge.break_off()
        if held.is_whole:
            return
        before = held.by_choice() if held.status else {}
        delivered = [len(before.get(choice, ())) for choice in range(body.get("n", 1))]
        streams = [seen.resumable() for _, seen in sorted(held.streams.items())]
        resume = Resume(held.begun[0].prompt if held.begun else [], streams, delivered)
        async with edge_of(verifier) as edge:
            rest = Answer()
            rest.resumes(resume)
            await edge.send(msgspec.structs.replace(ask, resume=resume))
            while not rest.is_whole:
                rest.add(await edge.receive())
        after = rest.by_choice()
        whole = {choice: before.get(choice, []) + after.get(choice, []) for choice in {*before, *after}}
        whole[None] = after[None]
        assert_close(whole, undisturbed.by_choice())

    await asyncio.gather(*map(cut_after, (1, 2, 3, 5, 8, 13, 21)))
    await until_idle(verifier)
