"""Chats with an image or sound: the server's own text, drafted for, taken over with the same one only."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from pipesd_vllm.wire import Ask, Mode, RefusalCode, Refused, Reply, Resume
from tests.answers import Answer
from tests.conftest import Verifier, running_verifier
from tests.integration.session_client import edge_of
from tests.integration.test_ask_equality import asked

from .media_models import make_image_model, make_sound_model
from .stack import agent_of, gateway_client, server_client

# A server of its own for each medium.
pytestmark = [pytest.mark.engine, pytest.mark.slow]

CHAT: Final = "/v1/chat/completions"
NUM_TOKENS: Final = 96
_SIDE: Final = 800
_SAMPLING_RATE: Final = 16_000
_SECONDS: Final = 25


def image(seed: int) -> dict[str, Any]:
    """Noise, which no compression makes smaller: more than a frame of the wire."""
    pixels = np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64_of(file)}"}}


def sound(seed: int) -> dict[str, Any]:
    """Tones, more than a frame of the wire, and hundreds of tokens of the prompt."""
    tones_hz = np.random.default_rng(seed).uniform(100, 4000, _SECONDS)
    turns = np.cumsum(np.repeat(tones_hz, _SAMPLING_RATE)) / _SAMPLING_RATE
    samples = (9000 * np.sin(2 * np.pi * turns)).astype(np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(_SAMPLING_RATE)
        written.writeframes(samples.tobytes())
    return {"type": "input_audio", "input_audio": {"data": base64_of(file), "format": "wav"}}


def base64_of(file: io.BytesIO) -> str:
    data = base64.b64encode(file.getvalue()).decode()
    assert len(data) > 1 << 20
    return data


@dataclass(frozen=True)
class Medium:
    """A kind of part in a message, and a target that takes it."""

    name: str
    part: Callable[[int], dict[str, Any]]
    """By a number: another one, another part of the same size."""
    make_model: Callable[[Path], None]

    def fields(self, number: int = 0, **more: Any) -> Any:
        content = [
            {"type": "text", "text": "What is this? "},
            self.part(number),
            {"type": "text", "text": "Say it, and say it again."},
        ]
        return {"messages": [{"role": "user", "content": content}], "max_tokens": NUM_TOKENS, **more}


@pytest.fixture(
    scope="module",
    params=[Medium("image", image, make_image_model), Medium("sound", sound, make_sound_model)],
    ids=lambda medium: medium.name,
)
def medium(request: pytest.FixtureRequest) -> Medium:
    found: Medium = request.param
    return found


@pytest.fixture(scope="module")
def perceiver(medium: Medium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    """A server for a model that takes the medium; nothing drafts but what looks up."""
    folder = tmp_path_factory.mktemp(medium.name)
    medium.make_model(folder)
    flags = ["--enforce-eager", "--served-model-name", medium.name, "--max-model-len", "4096"]
    with running_verifier(str(folder), medium.name, "none", flags, folder) as verifier:
        yield verifier


@pytest.mark.parametrize(
    "more", [{"temperature": 0}, {"temperature": 1, "seed": 5, "n": 2}], ids=["T=0", "n=2"]
)
async def test_a_chat_with_it_is_drafted_for(
    perceiver: Verifier, medium: Medium, more: dict[str, Any]
) -> None:
    """The text is that of the server's plain API, another one for another image or sound."""
    async with (
        server_client(perceiver) as server,
        agent_of(perceiver) as agent,
        gateway_client(agent) as client,
    ):
        theirs = await server.chat.completions.create(model=medium.name, **medium.fields(**more))
        others = await server.chat.completions.create(model=medium.name, **medium.fields(1, **more))
        ours: Any = await client.chat.completions.create(model=medium.name, **medium.fields(**more))
    texts = [choice.message.content for choice in theirs.choices]
    assert [choice.message.content for choice in ours.choices] == texts
    assert texts != [choice.message.content for choice in others.choices]
    figures = ours.model_extra["pipesd"]
    assert (figures["route"], figures["drafted"]) == ("collaborative", True)


async def test_drafts_beside_it_are_accepted(perceiver: Verifier, medium: Medium) -> None:
    """An edge that knows the answers drafts for both of them: they stay what they are."""
    body = {"model": medium.name, "temperature": 1, "seed": 5, "n": 2, "stream": True, **medium.fields()}
    alone = await asked(perceiver, CHAT, body)
    drafted = await asked(perceiver, CHAT, body, alone)
    assert drafted.by_choice() == alone.by_choice()
    assert all(seen.accepted > 0 for seen in drafted.streams.values())


async def test_a_chat_with_it_is_taken_over(perceiver: Verifier, medium: Medium) -> None:
    """It goes on where it was; with another image or sound of the same size it is refused."""
    body = {"model": medium.name, "temperature": 1, "seed": 3, "stream": True, **medium.fields()}
    ask = Ask(1, CHAT, json.dumps(body).encode(), "taken", Mode.LATENCY)
    whole, held, rest = Answer(), Answer(), Answer()
    async with edge_of(perceiver) as edge:
        await edge.send(ask)
        while not whole.is_whole:
            whole.add(await edge.receive())
    async with edge_of(perceiver) as edge:
        await edge.send(ask)
        for _ in range(30):
            held.add(await edge.receive())
        edge.break_off()
    begun = held.begun[0]
    assert begun.media
    delivered = [len(held.by_choice()[0])]
    resume = Resume(begun.prompt, [held.streams[0].resumable()], delivered, media=begun.media)
    async with edge_of(perceiver) as edge:
        rest.resumes(resume)
        await edge.send(Ask(1, CHAT, ask.body, "taken", Mode.LATENCY, resume=resume))
        while not rest.is_whole:
            rest.add(await edge.receive())
        assert held.by_choice()[0] + rest.by_choice()[0] == whole.by_choice()[0]
        other = json.dumps(body | medium.fields(1)).encode()
        await edge.send(Ask(2, CHAT, other, "taken", Mode.LATENCY, resume=resume))
        while isinstance(refused := await edge.receive(), Reply):
            pass  # vLLM's head of a stream comes before it asks its engine
        assert isinstance(refused, Refused)
        assert refused.code is RefusalCode.NOT_RESUMABLE
