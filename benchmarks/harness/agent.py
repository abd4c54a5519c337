"""The product's edge agent as what is measured: the shipped defaults, a rival's policy and mode."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.harness.rivals import Rival, Wire
from edge_agent.agent import EdgeAgent, cloud_api, cloud_connector, history_folder
from edge_agent.api import Fallback
from edge_agent.control import AgentParameters
from edge_agent.control.policies.registry import DEFAULT_POLICY
from edge_agent.drafting import DraftLibrary, DraftThread
from edge_agent.session import ControlPlane
from edge_agent.settings import EdgeSettings
from edge_agent.tracing import NullRecorder, TraceRecorder
from edge_agent.verifier.transport import Connector

__all__ = ["running_agent"]


@asynccontextmanager
async def running_agent(
    settings: EdgeSettings,
    worker: DraftThread,
    rival: Rival,
    parameters: AgentParameters,
    *,
    connector: Connector | None = None,
    recorder: TraceRecorder | None = None,
) -> AsyncIterator[EdgeAgent]:
    """An agent that has met its server, closed in the end; `worker` stays the caller's.

    All policies look drafts up, as in the simulator, but on the published wire. What the draft model makes
    without the server is no measurement: there is no fallback. Raises `EdgeError`.
    """
    api = cloud_api(settings)
    agent = EdgeAgent(
        worker,
        connector or cloud_connector(settings),
        api,
        ControlPlane(parameters, recorder or NullRecorder(), time.monotonic),
        mode=rival.mode or settings.mode,
        policy=rival.policy if rival.wire is not None else DEFAULT_POLICY,
        fallback=Fallback.ERROR,
        library=None if rival.wire is Wire.PUBLISHED else DraftLibrary((), history_folder()),
        connect_timeout_s=settings.connect_timeout_s,
    )
    try:
        if rival.wire is not None:
            await agent.warm_up()
        yield agent
    finally:
        await agent.close()
        await api.close()
