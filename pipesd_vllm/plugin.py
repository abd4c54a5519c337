"""The two vLLM entry points, both named `pipesd`. Importing this module imports neither vLLM nor torch.

Both do nothing unless `pipesd serve` has switched the plugin on: an installed pipesd changes no other vLLM,
whatever its version.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pipesd_vllm import compat

if TYPE_CHECKING:
    from pipesd_vllm.api import PipeSDEndpoint

__all__ = ["SWITCH", "NoEndpoint", "endpoint_plugin", "register"]

SWITCH: Final = "PIPESD_SERVE"
"""`pipesd serve` sets this environment variable to 1; the processes that vLLM starts inherit it."""


def _is_on(environment: Mapping[str, str]) -> bool:
    return environment.get(SWITCH) == "1"


def register(
    environment: Mapping[str, str] = os.environ, vllm_version: Callable[[], str] = compat.installed_version
) -> None:
    """Entry point `vllm.general_plugins`: runs in every vLLM process, before the engine is built.

    Raises `compat.UnsupportedVllmError` if switched on; vLLM lets it through and does not start.
    """
    if _is_on(environment):
        compat.check_version(vllm_version())


def endpoint_plugin(environment: Mapping[str, str] = os.environ) -> PipeSDEndpoint | NoEndpoint:
    """Entry point `vllm.endpoint_plugins`: makes the plugin's routes."""
    if not _is_on(environment):
        return NoEndpoint()
    from pipesd_vllm.api import PipeSDEndpoint

    return PipeSDEndpoint()


class NoEndpoint:
    """vLLM's `EndpointPlugin` protocol without routes, for a vLLM that `pipesd serve` did not start."""

    name = "pipesd"
    required_tasks: tuple[str, ...] = ()

    def attach_router(self, app: Any) -> None:
        """Do nothing."""

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Do nothing."""
