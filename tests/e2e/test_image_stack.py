"""Chats with images: the server's own text, drafted for, and taken over with the same image only."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from pipesd_vllm.wire import Ask, Mode, RefusalCode, Refused, Reply, Resume
from tests.answers import Answer
from tests.conftest import Verifier, running_verifier
from tests.integration.session_client import edge_of
from tests.integration.test_ask_equality import asked

from .image_model import NAME, make_image_model
from .stack import agent_of, gateway_client, server_client

# A server of its own.
pytestmark = [pytest.mark.engine, pytest.mark.slow]

CHAT: Final = "/v1/chat/completions"
NUM_TOKENS: Final = 96
_SIDE: Final = 800


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    """A server for a model that takes images; nothing drafts but what looks up."""
    folder = tmp_path_factory.mktemp("images")
    make_image_model(folder)
    flags = ["--enforce-eager", "--served-model-name", NAME, "--max-model-len", "4096"]
    with running_verifier(str(folder), NAME, "none", flags, folder) as verifier:
        yield verifier


def image(seed: int) -> str:
    """Noise, which no compression makes smaller: more than a frame of the wire."""
    pixels = np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    assert len(data) > 1 << 20
    return f"data:image/png;base64,{data}"


def fields(number: int = 0, **more: Any) -> Any:
    content = [
        {"type": "text", "text": "What is this? "},
        {"type": "image_url", "image_url": {"url": image(number)}},
        {"type": "text", "text": "Say it, and say it again."},
    ]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": NUM_TOKENS, **more}


@pytest.mark.parametrize(
    "more", [{"temperature": 0}, {"temperature": 1, "seed": 5, "n": 2}], ids=["T=0", "n=2"]
)
async def test_a_chat_with_an_image_is_drafted_for(viewer: Verifier, more: dict[str, Any]) -> None:
    """The text is that of the server's plain API, another one for another image."""
    async with (
        server_client(viewer) as server,
        agent_of(viewer) as agent,
        gateway_client(agent) as client,
    ):
        theirs = await server.chat.completions.create(model=NAME, **fields(**more))
        others = await server.chat.completions.create(model=NAME, **fields(1, **more))
        ours: Any = await client.chat.completions.create(model=NAME, **fields(**more))
    texts = [choice.message.content for choice in theirs.choices]
    assert [choice.message.content for choice in ours.choices] == texts
    assert texts != [choice.message.content for choice in others.choices]
    figures = ours.model_extra["pipesd"]
    assert (figures["route"], figures["drafted"]) == ("collaborative", True)


async def test_drafts_beside_an_image_are_accepted(viewer: Verifier) -> None:
    """An edge that knows the answers drafts for both of them: they stay what they are."""
    body = {"model": NAME, "temperature": 1, "seed": 5, "n": 2, "stream": True, **fields()}
    alone = await asked(viewer, CHAT, body)
    drafted = await asked(viewer, CHAT, body, alone)
    assert drafted.by_choice() == alone.by_choice()
    assert all(seen.accepted > 0 for seen in drafted.streams.values())


async def test_a_chat_with_an_image_is_taken_over(viewer: Verifier) -> None:
    """It goes on where it was; with another image of the same size it is refused."""
    body = {"model": NAME, "temperature": 1, "seed": 3, "stream": True, **fields()}
    ask = Ask(1, CHAT, json.dumps(body).encode(), "taken", Mode.LATENCY)
    whole, held, rest = Answer(), Answer(), Answer()
    async with edge_of(viewer) as edge:
        await edge.send(ask)
        while not whole.is_whole:
            whole.add(await edge.receive())
    async with edge_of(viewer) as edge:
        await edge.send(ask)
        for _ in range(30):
            held.add(await edge.receive())
        edge.break_off()
    begun = held.begun[0]
    assert begun.media
    delivered = [len(held.by_choice()[0])]
    resume = Resume(begun.prompt, [held.streams[0].resumable()], delivered, media=begun.media)
    async with edge_of(viewer) as edge:
        rest.resumes(resume)
        await edge.send(Ask(1, CHAT, ask.body, "taken", Mode.LATENCY, resume=resume))
        while not rest.is_whole:
            rest.add(await edge.receive())
        assert held.by_choice()[0] + rest.by_choice()[0] == whole.by_choice()[0]
        other = json.dumps(body | fields(1)).encode()
        await edge.send(Ask(2, CHAT, other, "taken", Mode.LATENCY, resume=resume))
        while isinstance(refused := await edge.receive(), Reply):
            pass  # vLLM's head of a stream comes before it asks its engine
        assert isinstance(refused, Refused)
        assert refused.code is RefusalCode.NOT_RESUMABLE
