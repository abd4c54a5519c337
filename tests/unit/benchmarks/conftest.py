"""Both ends on fakes: real gateways, real clients, scripted generations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from tokenizers import Tokenizer

from benchmarks.harness.pair import Pair, connected_pair
from edge_agent.api import FinishReason, TargetInfo
from edge_agent.testing import FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.cli.hosting import hosted_gateway

TEXTS = ["the quick brown fox", "hello world, hello you"]
MAX_MODEL_LEN = 64

MakeFake = Callable[[str], FakeGenerator]
ConnectPair = Callable[[str, str], AbstractAsyncContextManager[Pair]]


@pytest.fixture(scope="session")
def make_fake() -> MakeFake:
    """`make_fake(text)`: a generator that answers `text`, three tokens at a time."""
    bundle = fake_tokenizer_bundle(TEXTS)
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)

    def make(text: str) -> FakeGenerator:
        target = TargetInfo("org/target", MAX_MODEL_LEN, tokenizer.get_vocab_size())
        script = Script(tuple(tokenizer.encode(text).ids), FinishReason.LENGTH, chunk_tokens=3)
        return FakeGenerator(target, bundle, script)

    return make


@pytest.fixture
def connect_pair(make_fake: MakeFake) -> ConnectPair:
    """`connect_pair(ours, plain)`: a pair whose agent answers `ours` and whose server answers `plain`."""

    @asynccontextmanager
    async def connect(ours: str, plain: str) -> AsyncIterator[Pair]:
        async with (
            hosted_gateway(make_fake(plain)) as server_url,
            connected_pair(make_fake(ours), server_url, "key") as pair,
        ):
            yield pair

    return connect


@pytest.fixture(scope="session")
def token_ids(make_fake: MakeFake) -> Callable[[str], Sequence[int]]:
    """`token_ids(text)`: its tokens."""
    tokenizer = Tokenizer.from_str(fake_tokenizer_bundle(TEXTS).tokenizer_json)
    return lambda text: tuple(tokenizer.encode(text).ids)
