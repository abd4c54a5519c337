"""vLLM entry points, both named `pipesd`. Importing this module imports neither vLLM nor torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipesd_vllm import compat

if TYPE_CHECKING:
    from pipesd_vllm.endpoint import PipeSDEndpoint


def register() -> None:
    """`vllm.general_plugins`: runs in every vLLM process, before the engine is built.

    Raises `compat.UnsupportedVllmError` (vLLM lets it through and does not start).
    """
    compat.check_version(compat.installed_version())


def endpoint_plugin() -> PipeSDEndpoint:
    """`vllm.endpoint_plugins`: the factory for the routes."""
    from pipesd_vllm.endpoint import PipeSDEndpoint

    return PipeSDEndpoint()
