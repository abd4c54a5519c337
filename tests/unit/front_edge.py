"""An edge agent in front of vLLM's own front end, without a network, an engine or models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import httpx

from edge_agent.agent import EdgeAgent
from edge_agent.api import (
    AnswerEvent,
    AskRequest,
    Fallback,
    ForwardedAnswer,
    TargetInfo,
    TokenizerBundle,
)
from edge_agent.control import FixedParameters, PolicyParameters
from edge_agent.drafting import DraftThread
from edge_agent.errors import CloudError, CloudRefused, CloudUnreachable
from edge_agent.sampling import DraftToken
from edge_agent.session import ControlPlane
from edge_agent.testing import FakeDrafter, FakeForwardedAnswer, fake_tokenizer_bundle
from edge_agent.tracing import MemoryRecorder
from openai_gateway.app import create_app
from pipesd_vllm.wire import Downstream, Draft, Upstream, decode_downstream, encode

from .pipesd_vllm.api.front_end import MARKS, Edge, FrontEnd

__all__ = ["VOCABULARY", "Bench", "DraftGate", "FrontTransport", "ask", "lines"]

VOCABULARY = [f"t{i}" for i in range(256 + len(MARKS))]
PARAMETERS = PolicyParameters(
    sequence_threshold=0.3, token_threshold=0.2, max_ahead=12, patience_ms=500, max_window=4
)


class FrontTransport:
    """A connection to a front end. `cut_after` frames it is lost; `replace` changes what comes."""

    def __init__(
        self,
        edge: Edge,
        cut_after: int = -1,
        replace: Callable[[Downstream], Downstream] = lambda frame: frame,
    ) -> None:
        self.sent: list[Upstream] = []
        self.is_open = True
        self.num_received = 0
        self._edge = edge
        self._cut_after = cut_after
        self._replace = replace
        self._welcome: Downstream | None = edge.welcome

    async def send(self, message: Upstream) -> int:
        if not self.is_open:
            raise CloudUnreachable("lost")
        self.sent.append(message)
        self._edge.send(message)
        return len(encode(message))

    async def receive(self) -> tuple[Downstream, int]:
        if self._welcome is not None:
            welcome, self._welcome = self._welcome, None
            return self._replace(welcome), 1
        if self.num_received == self._cut_after or not self.is_open:
            self._edge.leave()
            self.is_open = False
            raise CloudUnreachable("lost")
        event = await self._edge.event()
        if event["type"] == "websocket.close":
            self.is_open = False
            raise CloudUnreachable("closed")
        self.num_received += 1
        return self._replace(decode_downstream(event["bytes"])), len(event["bytes"])

    async def ping(self, num_bytes: int) -> float:
        return 1e-3

    async def close(self) -> None:
        self.is_open = False
        self._edge.leave()


class DraftGate(FrontTransport):
    """A connection whose target makes a step with each frame of drafts."""

    def __init__(self, front: FrontEnd, edge: Edge) -> None:
        super().__init__(edge)
        self._gate = front.engine.gate = asyncio.Event()

    async def send(self, message: Upstream) -> int:
        num_bytes = await super().send(message)
        if isinstance(message, Draft):
            self._gate.set()
            await asyncio.sleep(0)
            self._gate.clear()
        return num_bytes


class Connectors:
    """Gives the transports one after the other; errors are raised in their place."""

    def __init__(self, transports: Sequence[FrontTransport | CloudError]) -> None:
        self.remaining = list(transports)

    async def connect(self) -> FrontTransport:
        if not self.remaining:
            raise CloudUnreachable("nobody is there")
        found = self.remaining.pop(0)
        if isinstance(found, CloudError):
            raise found
        return found


class Api:
    """What an agent asks of the server beside the sessions."""

    def __init__(self, front: FrontEnd) -> None:
        self._front = front

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        answer = await self._front.plain(path, body)
        return FakeForwardedAnswer(answer.status, [answer.body])

    async def target(self) -> TargetInfo:
        return TargetInfo("m", 4096, len(VOCABULARY))

    async def adapters(self) -> tuple[str, ...]:
        return tuple(self._front.app.state.openai_serving_models.lora_requests)

    async def tokenizer(self) -> TokenizerBundle:
        raise CloudRefused("no_tokenizer", "this one cannot be handed out")

    def remembered(self) -> None: ...

    def serves(self, welcome: object) -> bool:
        return True

    async def close(self) -> None: ...


def drafter(front: FrontEnd, texts: Sequence[str], wrong_every: int = 0) -> FakeDrafter:
    """Drafts the first of `texts` that fits after the prompt's end, wrong at every `wrong_every`-th token."""
    scripts = [front.engine.ids(text) for text in texts]
    start = front.engine.ids("<|im_start|>assistant", ends=False)

    def next_token(tokens: Sequence[int]) -> DraftToken:
        held = list(tokens)
        place = next(i for i in range(len(held), 0, -1) if held[i - len(start) : i] == start)
        done = len(held) - place
        ids = next((ids for ids in scripts if ids[:done] == held[place:]), scripts[0])
        right = ids[done] if done < len(ids) else 0
        is_wrong = wrong_every and done % wrong_every == wrong_every - 1
        return DraftToken((right + 1) % 256 if is_wrong else right, 0.95)

    return FakeDrafter(next_token, VOCABULARY, context_length=4096)


class Bench:
    """An agent on given connections."""

    def __init__(
        self,
        front: FrontEnd,
        text: str | Sequence[str],
        transports: Sequence[FrontTransport | CloudError],
        fallback: Fallback = Fallback.ERROR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`text`: what is drafted; several: those of the streams."""
        texts = [text] if isinstance(text, str) else text
        self.recorder = MemoryRecorder()
        self.worker = DraftThread(drafter(front, texts, 7))
        control = ControlPlane(FixedParameters(PARAMETERS), self.recorder, time.monotonic)
        api: Any = Api(front)
        bundle = fake_tokenizer_bundle([*texts])
        self.agent = EdgeAgent(
            self.worker,
            Connectors(transports),
            api,
            control,
            fallback=fallback,
            own_tokenizer=lambda: bundle,
            clock=clock,
        )

        async def check(welcome: object) -> None: ...

        self.agent._pool._check = check  # the scripted vocabulary has no fingerprint

    async def events(self, request: AskRequest) -> list[AnswerEvent]:
        try:
            async with aclosing(self.agent.ask(request)) as events:  # type: ignore[type-var]
                return [event async for event in events]
        finally:
            await self.agent.close()


@asynccontextmanager
async def lines(
    front: FrontEnd, *cuts: int, **options: Any
) -> AsyncIterator[list[FrontTransport | CloudError]]:
    """A connection for each of `cuts`."""
    async with AsyncExitStack() as stack:
        edges = [await stack.enter_async_context(front.edge()) for _ in cuts]
        yield [FrontTransport(edge, cut, **options) for edge, cut in zip(edges, cuts, strict=True)]


async def ask(front: FrontEnd, path: str, body: Mapping[str, Any]) -> httpx.Response:
    """What a gateway in front of it answers to a POST, all of whose drafts are for the text `Hello`."""
    async with lines(front, -1) as line:
        bench = Bench(front, "Hello", line)
        transport = httpx.ASGITransport(create_app(bench.agent))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.post(path, json={**body}, timeout=60.0)
        finally:
            await bench.agent.close()
