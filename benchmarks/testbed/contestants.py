"""The rivals as running things: one edge agent and gateway each, one draft model for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.agent import running_agent
from benchmarks.harness.clients import TimedAnswer
from benchmarks.harness.pair import Pair, connected_pair, paced_drafter
from benchmarks.harness.rivals import Rival, Way, Wire, rival_parameters
from benchmarks.wire.padded import PaddedConnector
from edge_agent.agent import policy_parameters
from edge_agent.api import SessionMode
from edge_agent.control import EnvironmentSnapshot, FixedParameters, PolicyParameters, SessionParameters
from edge_agent.control.policies.registry import Task
from edge_agent.drafting import DraftThread
from edge_agent.settings import EdgeSettings
from edge_agent.tracing import FileRecorder, NullRecorder

__all__ = ["Contestant", "contestants"]


class _TaskParameters:
    """`AgentParameters` of one rival: parameters of the literature depend on the task at hand."""

    def __init__(self, ours: PolicyParameters) -> None:
        self._ours = ours
        self.task: Task = "code"

    def for_session(
        self, policy: str, mode: SessionMode, environment: EnvironmentSnapshot
    ) -> SessionParameters:
        return FixedParameters(rival_parameters(policy, self._ours, self.task))

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Contestant:
    """One rival, ready to be asked."""

    pair: Pair
    _parameters: _TaskParameters

    async def answer(self, way: Way, task: Task, prompt: Sequence[int], num_tokens: int) -> TimedAnswer:
        """Continue `prompt` greedily by exactly `num_tokens` tokens. Raises `CliError`, `EdgeError`."""
        self._parameters.task = task
        if way is Way.CLOUD:
            await self.pair.cloud.connection_open()
        return await self.pair.answer(way, prompt, num_tokens)


@asynccontextmanager
async def contestants(
    settings: EdgeSettings,
    rivals: Sequence[Rival],
    *,
    gamma_s: float = 0.0,
    far_side: str,
    trace_folder: Path | None = None,
) -> AsyncIterator[Mapping[Rival, Contestant]]:
    """An agent, connected and probed, and a gateway for each rival; one draft model, paced to `gamma_s`.

    The published wire connects to `far_side`. Raises `ModelError`, `EdgeError`, `CliError`.
    """
    async with AsyncExitStack() as stack:
        worker = DraftThread(await asyncio.to_thread(paced_drafter, settings, gamma_s))
        stack.push_async_callback(worker.close)
        ready = {}
        for rival in rivals:
            parameters = _TaskParameters(policy_parameters(settings))
            name = f"{rival.label.replace(':', '-')}.jsonl"
            recorder = NullRecorder() if trace_folder is None else FileRecorder(trace_folder / name)
            published = PaddedConnector(far_side, settings.cloud_key, settings.connect_timeout_s)
            connector = published if rival.wire is Wire.PUBLISHED else None
            running = running_agent(
                settings, worker, rival, parameters, connector=connector, recorder=recorder
            )
            agent = await stack.enter_async_context(running)
            opening = connected_pair(agent, settings.cloud_url, settings.cloud_key)
            ready[rival] = Contestant(await stack.enter_async_context(opening), parameters)
        yield ready
