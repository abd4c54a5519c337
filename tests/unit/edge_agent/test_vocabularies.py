"""An agent whose draft model has another vocabulary than the target."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_agent import EdgeAgent
from edge_agent.api import GenerationRequest, Sampling, SessionMode, Source
from edge_agent.control import FixedParameters, PolicyParameters
from edge_agent.drafting import DraftThread
from edge_agent.session import ControlPlane
from edge_agent.testing import FakeConnector, FakeDrafter, FakeTransport, fake_tokenizer_bundle, fake_welcome
from edge_agent.tracing import NullRecorder
from edge_agent.verifier import CloudApi
from pipesd_vllm.wire import INFO_PATH, TOKENIZER_PATH, fingerprint

BUNDLE = fake_tokenizer_bundle(["x"], num_merges=0)
BY_STRING = Tokenizer.from_str(BUNDLE.tokenizer_json).get_vocab()
TARGET = sorted(BY_STRING, key=BY_STRING.__getitem__)
DRAFT = random.Random(5).sample(TARGET[10:], len(TARGET) - 10)
"""Without ten of the target's tokens, none of which the text has."""
PROMPT = (40, 50, 60)
NUM_TOKENS = 40
PARAMETERS = PolicyParameters(
    sequence_threshold=0.3, token_threshold=0.2, max_ahead=12, patience_ms=500, max_window=4
)


def target_next(tokens: Sequence[int]) -> int:
    return 20 + (tokens[-1] * 31 + len(tokens)) % 200


def target_text() -> list[int]:
    text = list(PROMPT)
    for _ in range(NUM_TOKENS):
        text.append(target_next(text))
    return text[len(PROMPT) :]


def logits(read: Sequence[int]) -> NDArray[np.float32]:
    """The draft is sure of what the target will say after the text that it has read, in its own ids."""
    right = TARGET[target_next([TARGET.index(DRAFT[token]) for token in read])]
    found = np.zeros(len(DRAFT), dtype=np.float32)
    found[DRAFT.index(right)] = 9.0
    return found


@asynccontextmanager
async def agent_of(folder: Path, tokenizer_json: str) -> AsyncIterator[EdgeAgent]:
    print_ = fingerprint(TARGET)
    info: dict[str, object] = {"model": "fake-target", "max_model_len": 4096, "vocab_size": len(TARGET)}
    info["fingerprint"] = {"num_tokens": print_.num_tokens, "sha256": print_.sha256}
    tokenizer: dict[str, object] = {
        "tokenizer_json": tokenizer_json,
        "chat_template": None,
        "special_tokens": {},
    }
    bodies = {INFO_PATH: info, TOKENIZER_PATH: tokenizer | {"eos_token_ids": []}}
    http = httpx.MockTransport(
        lambda request: httpx.Response(200, content=msgspec.json.encode(bodies[request.url.path]))
    )
    agent = EdgeAgent(
        DraftThread(FakeDrafter(logits, DRAFT)),
        FakeConnector([FakeTransport(target_next, fake_welcome(print_)) for _ in range(60)]),
        CloudApi("http://verifier", None, 1.0, folder, http),
        ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), lambda: 0.0),
        mode=SessionMode.OFFLOAD,
    )
    try:
        yield agent
    finally:
        await agent.close()


async def origins(agent: EdgeAgent) -> list[Source]:
    """Of an answer, which must be the target's text."""
    tokens: list[int] = []
    found: list[Source] = []
    async for chunk in agent.generate(GenerationRequest("r", PROMPT, Sampling(NUM_TOKENS))):
        tokens += chunk.token_ids
        found += chunk.sources
    assert tokens == target_text()
    return found


async def test_its_tokens_are_translated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once the map is made; notices name both models, what they share and what it is worth."""
    async with agent_of(tmp_path, BUNDLE.tokenizer_json) as agent, asyncio.timeout(20):
        found: list[Source] = []
        while found.count(Source.DRAFTED) <= NUM_TOKENS / 2:
            await asyncio.sleep(0.02)
            found = await origins(agent)
        while "the target keeps" not in caplog.text:
            await origins(agent)
    assert "the draft fake does not fit the target fake-target" in caplog.text
    assert f"{100 * len(DRAFT) / len(TARGET):.0f} %" in caplog.text
    assert re.search("the target keeps (99|100) % of what fake drafts", caplog.text)


async def test_a_tokenizer_that_cannot_be_read_leaves_lookup(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_of(tmp_path, "no tokenizer") as agent, asyncio.timeout(20):
        while "drafting by lookup only" not in caplog.text:
            assert Source.DRAFTED not in await origins(agent)
            await asyncio.sleep(0.02)
        assert Source.DRAFTED not in await origins(agent)
    assert caplog.text.count("drafting by lookup only") == 1
