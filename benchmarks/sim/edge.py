"""An edge on virtual time: the product's agent, a draft of known agreement, a worker without a thread."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as Folder

import httpx

from benchmarks.sim import models
from benchmarks.sim.models import VOCAB_SIZE, KnownDraft
from benchmarks.sim.network import SimNetwork
from benchmarks.sim.plan import DraftCost, EdgePlan, Side
from edge_agent.agent import EdgeAgent
from edge_agent.control import AgentParameters, FixedParameters
from edge_agent.drafting import DraftLibrary, DraftWorker, GuardedPicker
from edge_agent.errors import ModelError
from edge_agent.sampling import DraftToken, TokenPicker
from edge_agent.session import ControlPlane
from edge_agent.testing import FakeDrafter
from edge_agent.tracing import NullRecorder
from edge_agent.verifier import CloudApi, WebSocketConnector
from pipesd_vllm.wire import Fingerprint

__all__ = ["InLoopWorker", "PathTransport", "SimDrafter", "SimEdge"]


class SimDrafter(FakeDrafter):
    """`FakeDrafter` over a `KnownDraft`; tells what the next call will cost."""

    def __init__(self, draft: KnownDraft, *, context_length: int, max_sequences: int) -> None:
        super().__init__(
            lambda _: DraftToken(0, 1.0),
            models.vocabulary(),
            context_length=context_length,
            max_sequences=max_sequences,
        )
        self._draft = draft
        self.failing_calls: set[int] = set()
        """Numbers of the calls that raise `ModelError`, from 1."""
        self.num_calls = 0
        self.num_open = 0
        self.on_abort: Callable[[], None] = lambda: None

    def fingerprint(self, num_tokens: int) -> Fingerprint:
        return models.target_fingerprint() if num_tokens == VOCAB_SIZE else super().fingerprint(num_tokens)

    def open(self, tokens: Sequence[int], picker: TokenPicker | None = None) -> int:
        sequence = super().open(tokens, picker)
        self.num_open += 1
        return sequence

    def close_sequence(self, sequence: int) -> None:
        super().close_sequence(sequence)
        self.num_open -= 1

    def num_pending(self, sequences: Sequence[int]) -> int:
        """Tokens that `draft(sequences)` would evaluate now."""
        return sum(len(chunk.tokens) for chunk in self._table.plan_batch(sequences, self._n_batch))

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        self.num_calls += 1
        if self.num_calls in self.failing_calls:
            raise ModelError("the draft model failed, as the plan says")
        return super().draft(sequences)

    def request_abort(self) -> None:
        super().request_abort()
        self.on_abort()

    def _pick(self, slot: int) -> DraftToken:
        tokens, picker = self._table.tokens(slot), self._pickers[slot]
        if isinstance(picker, GuardedPicker) and picker.is_greedy:
            return self._draft.token(slot, tokens)
        return picker.pick(self._draft.logits(slot, tokens), tokens)


class InLoopWorker(DraftWorker):
    """The product's worker, its model calls on the event loop: a call is a timer, an abort cuts it short."""

    def __init__(self, drafter: SimDrafter, cost: DraftCost) -> None:
        super().__init__(drafter, asyncio.get_running_loop().time)
        self._sim_drafter = drafter
        self._cost = cost
        self._commands: deque[Callable[[], None]] = deque()
        self._call: asyncio.TimerHandle | None = None
        self._is_woken = False
        drafter.on_abort = self._cut_short

    async def close(self) -> None:
        if self._call is not None:
            self._call.cancel()
        self._drafter.close()

    def _post(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        if self._call is None and not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """As the thread's loop, up to the next model call."""
        self._is_woken = False
        while self._call is None:
            wanted = self._drafting.wanted()
            if not wanted and not self._commands:
                return
            while self._commands:
                self._commands.popleft()()
            if numbers := self._drafting.begin(wanted):
                self._call = self._loop.call_later(self._cost_s(numbers), self._end_call)

    def _cost_s(self, numbers: Sequence[int]) -> float:
        cost = self._cost
        if not cost.token_s:
            return cost.call_s
        return cost.call_s + cost.token_s * max(0, self._sim_drafter.num_pending(numbers) - len(numbers))

    def _cut_short(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = self._loop.call_later(0.0, self._end_call)

    def _end_call(self) -> None:
        self._call = None
        try:
            self._drafting.finish()
        except Exception as error:
            self._drafting.fail(f"drafting failed: {error}")
        self._serve()


class PathTransport(httpx.AsyncBaseTransport):
    """Plain HTTP over an edge's path, a connection a request: segments are timed, not carried as bytes."""

    def __init__(self, network: SimNetwork, app_of: Callable[[int], Callable[..., object]]) -> None:
        """`app_of(server)`: the ASGI application that answers now."""
        self._network = network
        self._app_of = app_of

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
        try:
            async with asyncio.timeout(timeouts.get("read")):
                return await self._answer(request)
        except TimeoutError as error:
            raise httpx.ReadTimeout("the verifier does not answer", request=request) from error
        except OSError as error:
            raise httpx.ConnectError(str(error), request=request) from error

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        loop = asyncio.get_running_loop()
        path = await self._network.round_trip(request.url.host)
        left_s = path.transmit_s(loop.time(), Side.UP, len(request.content) + _HEADERS_BYTES)
        await _until(loop, path.arrival_s(left_s, Side.UP))
        if not self._network.is_listening(path.server):
            raise ConnectionResetError("connection reset by peer")
        transport = httpx.ASGITransport(app=self._app_of(path.server))  # type: ignore[arg-type]
        response = await transport.handle_async_request(request)
        body = await response.aread()
        left_s = path.transmit_s(loop.time(), Side.DOWN, len(body) + _HEADERS_BYTES)
        await _until(loop, path.arrival_s(left_s, Side.DOWN))
        return httpx.Response(response.status_code, headers=response.headers, content=body)


_HEADERS_BYTES = 200


async def _until(loop: asyncio.AbstractEventLoop, at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - loop.time()))


class SimEdge:
    """One edge of a plan: `host` names its path, `agent` is the product's."""

    def __init__(
        self,
        number: int,
        plan: EdgePlan,
        target: str,
        rng: random.Random,
        http: httpx.AsyncBaseTransport,
        cache_dir: Folder,
        parameters: AgentParameters | None = None,
    ) -> None:
        """`target`: the one that its draft agrees with. `rng` is its own. `cache_dir` is empty."""
        self.plan = plan
        self.host = host_of(number)
        clock = asyncio.get_running_loop().time
        seed = rng.getrandbits(32)
        if plan.agreement_seed is not None:
            seed = plan.agreement_seed
        draft = KnownDraft(target, seed, plan.agreement, plan.confidence)
        self.drafter = SimDrafter(
            draft,
            context_length=plan.context_length,
            max_sequences=plan.max_sequences if plan.drafts else 1,
        )
        if not plan.drafts:
            self.drafter.open([1])  # the only sequence is taken
        self._num_taken = self.drafter.num_open
        url = f"http://{self.host}"
        replicas = [f"http://{host_of(number, replica)}" for replica in range(1, 1 + len(plan.replicas))]
        self.agent = EdgeAgent(
            InLoopWorker(self.drafter, plan.draft),
            WebSocketConnector(url, plan.api_key, plan.connect_timeout_s),
            CloudApi(url, plan.api_key, plan.connect_timeout_s, cache_dir, http, replicas=replicas),
            ControlPlane(parameters or FixedParameters(plan.parameters), NullRecorder(), clock),
            fallback=plan.fallback,
            own_tokenizer=models.bundle,
            library=DraftLibrary((), cache_dir) if plan.lookup else None,
            connect_timeout_s=plan.connect_timeout_s,
            clock=clock,
            draw_bits=rng.getrandbits,
            other_connectors=[
                WebSocketConnector(replica, plan.api_key, plan.connect_timeout_s) for replica in replicas
            ],
        )

    @property
    def num_sequences(self) -> int:
        """Open in the draft model for chats."""
        return self.drafter.num_open - self._num_taken


def host_of(number: int, replica: int = 0) -> str:
    """Host name of an edge's path to its server, or to one of its other servers, from 1."""
    return f"edge{number}-{replica}" if replica else f"edge{number}"
