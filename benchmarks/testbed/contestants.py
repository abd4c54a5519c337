"""The rivals as running things: one edge agent and gateway each, one draft model for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.clients import TimedAnswer
from benchmarks.harness.pair import Pair, Way, connected_pair, paced_drafter
from benchmarks.harness.rivals import CLOUD, LOCAL, Rival, Wire, rival_parameters
from benchmarks.wire.padded import PaddedConnector
from edge_agent.agent import EdgeAgent, cloud_api, cloud_connector, policy_parameters
from edge_agent.api import Fallback
from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.control.parameters import FixedParameters, SessionParameters
from edge_agent.control.policies.base import PolicyParameters
from edge_agent.control.policies.registry import DEFAULT_POLICY, Task
from edge_agent.drafting.worker import DraftWorker
from edge_agent.session.control import ControlPlane
from edge_agent.settings import EdgeSettings
from edge_agent.tracing.recorder import FileRecorder, NullRecorder
from edge_agent.verifier.http import CloudApi
from edge_agent.verifier.transport import Connector, Transport
from pipesd_vllm.wire import Commit, Downstream, Mode

__all__ = ["Contestant", "Edge", "NavCounter", "contestants", "started_edge"]


class _TaskParameters:
    """`AgentParameters` of one rival: parameters of the literature depend on the task at hand."""

    def __init__(self, ours: PolicyParameters) -> None:
        self._ours = ours
        self.task: Task = "code"

    def for_session(self, policy: str, mode: Mode, environment: EnvironmentSnapshot) -> SessionParameters:
        return FixedParameters(rival_parameters(policy, self._ours, self.task))

    def close(self) -> None:
        pass


class NavCounter:
    """A `Connector` that counts the commits of passes that checked drafts, over all its connections."""

    def __init__(self, inner: Connector) -> None:
        self._inner = inner
        self.num_nav = 0

    async def connect(self) -> Transport:
        return _Tapped(await self._inner.connect(), self)


class _Tapped:
    """A `Transport` whose commits are counted."""

    def __init__(self, inner: Transport, counter: NavCounter) -> None:
        self._inner = inner
        self._counter = counter

    async def receive(self) -> tuple[Downstream, int]:
        message, num_bytes = await self._inner.receive()
        self._counter.num_nav += isinstance(message, Commit) and message.drafted > 0
        return message, num_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclass(frozen=True, slots=True)
class Edge:
    """What all rivals share on the edge's side. `far_side` is where the published wire connects to."""

    settings: EdgeSettings
    far_side: str
    worker: DraftWorker
    api: CloudApi
    trace_folder: Path | None


@dataclass(frozen=True, slots=True)
class Contestant:
    """One rival, ready to be asked."""

    rival: Rival
    pair: Pair
    _parameters: _TaskParameters
    _counter: NavCounter

    def playing(self, rival: Rival) -> Contestant:
        """`rival`, one that drafts nothing for the server, over this one's gateway and agent."""
        return Contestant(rival, self.pair, self._parameters, self._counter)

    async def answer(self, task: Task, prompt: Sequence[int], num_tokens: int) -> tuple[TimedAnswer, int]:
        """Continue `prompt` greedily by exactly `num_tokens` tokens; the answer, and its NAV passes.

        Raises `CliError`, `EdgeError`.
        """
        self._parameters.task = task
        way = {CLOUD: Way.CLOUD, LOCAL: Way.LOCAL}.get(self.rival.policy, Way.COLLABORATIVE)
        if way is Way.CLOUD:
            await self.pair.cloud.connection_open()
        num_nav = self._counter.num_nav
        answer = await self.pair.answer(way, prompt, num_tokens)
        return answer, self._counter.num_nav - num_nav


@asynccontextmanager
async def started_edge(
    settings: EdgeSettings, gamma_s: float, far_side: str, trace_folder: Path | None
) -> AsyncIterator[Edge]:
    """Load the draft model, paced to `gamma_s`. Raises `ModelError`."""
    async with AsyncExitStack() as stack:
        api = cloud_api(settings)
        stack.push_async_callback(api.close)
        worker = DraftWorker(await asyncio.to_thread(paced_drafter, settings, gamma_s))
        stack.push_async_callback(worker.close)
        yield Edge(settings, far_side, worker, api, trace_folder)


@asynccontextmanager
async def contestants(edge: Edge, rivals: Sequence[Rival]) -> AsyncIterator[Mapping[Rival, Contestant]]:
    """An agent, connected and probed, and a gateway for each rival. Raises `EdgeError`, `CliError`."""
    async with AsyncExitStack() as stack:
        yield {rival: await stack.enter_async_context(_contestant(edge, rival)) for rival in rivals}


@asynccontextmanager
async def _contestant(edge: Edge, rival: Rival) -> AsyncIterator[Contestant]:
    settings = edge.settings
    parameters = _TaskParameters(policy_parameters(settings))
    folder, name = edge.trace_folder, f"{rival.label.replace(':', '-')}.jsonl"
    recorder = NullRecorder() if folder is None else FileRecorder(folder / name)
    counter = NavCounter(_connector(edge, rival))
    agent = EdgeAgent(
        edge.worker,
        counter,
        edge.api,
        ControlPlane(parameters, recorder, time.monotonic),
        mode=rival.mode or settings.mode,
        policy=rival.policy if rival.wire is not None else DEFAULT_POLICY,
        fallback=Fallback.ERROR,  # what the draft model makes alone is no measurement of this rival
        connect_timeout_s=settings.connect_timeout_s,
    )
    try:
        if rival.wire is not None:
            await agent.warm_up()
        async with connected_pair(agent, settings.cloud_url, settings.cloud_key) as pair:
            yield Contestant(rival, pair, parameters, counter)
    finally:
        await agent.close()


def _connector(edge: Edge, rival: Rival) -> Connector:
    settings = edge.settings
    if rival.wire is Wire.PUBLISHED:
        return PaddedConnector(edge.far_side, settings.cloud_key, settings.connect_timeout_s)
    return cloud_connector(settings)
