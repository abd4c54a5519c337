"""The rivals as running things: one edge agent and gateway each, one draft model for all."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.clients import connection_open, stream_completion
from benchmarks.conditions import Conditions
from benchmarks.harness.pair import Pair, connected_pair
from benchmarks.harness.rivals import CLOUD, LOCAL, Rival, Wire, rival_parameters
from benchmarks.testbed.tap import CommitCounter, TappedConnector
from benchmarks.wire.padded import PaddedConnector
from edge_agent.agent import EdgeAgent
from edge_agent.agent_parts import cloud_api, cloud_connector, policy_parameters
from edge_agent.cloud_api import CloudApi
from edge_agent.control import ControlPlane
from edge_agent.fallback import Fallback
from edge_agent.generation import GenerationRequest, GenerationStats, Route, SamplingSettings
from edge_agent.monitor import EnvironmentSnapshot
from edge_agent.policies.base import PolicyParameters
from edge_agent.policies.registry import DEFAULT_POLICY, Task
from edge_agent.settings import EdgeSettings
from edge_agent.tracing.recorder import FileRecorder, NullRecorder
from edge_agent.transport import Connector
from edge_agent.tuning.autotuner import FixedParameters, ParameterSource
from edge_agent.worker import DraftWorker
from openai_gateway.cli.errors import CliError
from pipesd_vllm.protocol import Mode

__all__ = ["Answer", "Contestant", "Edge", "contestants", "started_edge"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One generation as its reader saw it, times in seconds; `stats` of the edge agent, if it had a part."""

    text: str
    num_tokens: int
    ttft_s: float
    total_s: float
    arrivals_s: tuple[float, ...]
    stats: GenerationStats | None = None
    num_nav: int = 0


class TaskParameters:
    """`ParameterSources` of one rival: parameters of the literature depend on the task at hand."""

    def __init__(self, ours: PolicyParameters) -> None:
        self._ours = ours
        self.task: Task = "code"

    def source(self, policy: str, mode: Mode, environment: EnvironmentSnapshot) -> ParameterSource:
        return FixedParameters(rival_parameters(policy, self._ours, self.task))

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Edge:
    """What all rivals share on the edge's side. `far_side` is where the published wire connects to."""

    settings: EdgeSettings
    far_side: str
    worker: DraftWorker
    api: CloudApi
    trace_folder: Path | None


class Contestant:
    """One rival, ready to be asked."""

    def __init__(self, rival: Rival, pair: Pair, parameters: TaskParameters, counter: CommitCounter) -> None:
        self.rival = rival
        self.pair = pair
        self._parameters = parameters
        self._counter = counter

    @classmethod
    def sharing(cls, other: Contestant, rival: Rival) -> Contestant:
        """`rival`, one that drafts nothing for the server, over the gateway and agent of `other`."""
        return cls(rival, other.pair, other._parameters, other._counter)

    async def answer(self, task: Task, prompt: Sequence[int], num_tokens: int) -> Answer:
        """Continue `prompt` greedily by exactly `num_tokens` tokens. Raises `CliError`, `EdgeError`."""
        self._parameters.task = task
        if self.rival.policy == LOCAL:
            return await self._locally(prompt, num_tokens)
        pair = self.pair
        is_plain = self.rival.policy == CLOUD
        num_nav = self._counter.num_nav
        client = pair.cloud if is_plain else pair.gateway
        if is_plain:
            await connection_open(client)
        timed = await stream_completion(client, pair.target.model, prompt, num_tokens)
        if timed.num_tokens != num_tokens:
            raise CliError(f"{self.rival.label} gave {timed.num_tokens} tokens instead of {num_tokens}.")
        return Answer(
            timed.text,
            timed.num_tokens,
            timed.first_text_s,
            timed.total_s,
            timed.arrivals_s,
            None if is_plain else pair.recorder.take(timed.answer_id).stats,
            self._counter.num_nav - num_nav,
        )

    async def _locally(
        self, prompt: Sequence[int], num_tokens: int, clock: Callable[[], float] = time.perf_counter
    ) -> Answer:
        request = GenerationRequest(
            f"local-{uuid.uuid4().hex}",
            tuple(prompt),
            SamplingSettings(num_tokens, ignore_eos=True),
            Route.LOCAL,
        )
        started_s = clock()
        chunks = self.pair.recorder.generate(request)
        arrivals_s = [clock() - started_s async for chunk in chunks if chunk.token_ids]
        stats = self.pair.recorder.take(request.request_id).stats
        return Answer(
            "", stats.completion_tokens, arrivals_s[0], arrivals_s[-1], tuple(arrivals_s), stats, num_nav=0
        )


@asynccontextmanager
async def started_edge(
    settings: EdgeSettings, gamma_s: float, far_side: str, trace_folder: Path | None
) -> AsyncIterator[Edge]:
    """Load the draft model, paced to `gamma_s`. Raises `ModelError`."""
    api = cloud_api(settings)
    try:
        drafter = await asyncio.to_thread(Conditions(gamma_s=gamma_s).load_drafter, settings)
        worker = DraftWorker(drafter)
        try:
            yield Edge(settings, far_side, worker, api, trace_folder)
        finally:
            await worker.close()
    finally:
        await api.close()


@asynccontextmanager
async def contestants(edge: Edge, rivals: Sequence[Rival]) -> AsyncIterator[Mapping[Rival, Contestant]]:
    """An agent, connected and probed, and a gateway for each rival. Raises `EdgeError`, `CliError`."""
    async with AsyncExitStack() as stack:
        ready = {rival: await stack.enter_async_context(_contestant(edge, rival)) for rival in rivals}
        yield ready


@asynccontextmanager
async def _contestant(edge: Edge, rival: Rival) -> AsyncIterator[Contestant]:
    settings = edge.settings
    parameters = TaskParameters(policy_parameters(settings))
    trace = (
        None if edge.trace_folder is None else edge.trace_folder / f"{rival.label.replace(':', '-')}.jsonl"
    )
    recorder = FileRecorder(trace) if trace is not None else NullRecorder()
    control = ControlPlane(parameters, recorder, time.monotonic)
    counter = CommitCounter()
    agent = EdgeAgent(
        edge.worker,
        TappedConnector(_connector(edge, rival), counter),
        edge.api,
        control,
        mode=rival.mode or settings.mode,
        policy=rival.policy if rival.wire is not None else DEFAULT_POLICY,
        fallback=Fallback.ERROR,  # what the draft model makes alone is no measurement of this rival
        connect_timeout_s=settings.connect_timeout_s,
    )
    try:
        if rival.wire is not None:
            await agent.warm_up()
        async with connected_pair(agent, f"{settings.cloud_url}/v1", edge.settings.cloud_key) as pair:
            yield Contestant(rival, pair, parameters, counter)
    finally:
        await agent.close()


def _connector(edge: Edge, rival: Rival) -> Connector:
    settings = edge.settings
    if rival.wire is Wire.PUBLISHED:
        return PaddedConnector(edge.far_side, settings.cloud_key, settings.connect_timeout_s)
    return cloud_connector(settings)
