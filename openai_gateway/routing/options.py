"""Per-request choices that OpenAI's API has no field for, given as headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edge_agent.control.policies.registry import POLICY_NAMES
from openai_gateway.errors import InvalidRequest
from pipesd_vllm.wire import Mode

__all__ = ["MODE_HEADER", "POLICY_HEADER", "PROVENANCE_HEADER", "SessionOptions", "session_options"]

MODE_HEADER: Final = "x-pipesd-mode"
POLICY_HEADER: Final = "x-pipesd-policy"
PROVENANCE_HEADER: Final = "x-pipesd-provenance"


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """None: the agent's setting."""

    mode: Mode | None = None
    policy: str | None = None
    provenance: bool = False
    """Say of each streamed piece who wrote it."""


def session_options(headers: Mapping[str, str]) -> SessionOptions:
    """Read the headers. Raises `InvalidRequest` for a value that does not exist."""
    mode, policy = headers.get(MODE_HEADER), headers.get(POLICY_HEADER)
    return SessionOptions(
        mode=None if mode is None else Mode(_one_of(MODE_HEADER, mode, [str(m) for m in Mode])),
        policy=None if policy is None else _one_of(POLICY_HEADER, policy, POLICY_NAMES),
        provenance=_one_of(PROVENANCE_HEADER, headers.get(PROVENANCE_HEADER, "0"), ("0", "1")) == "1",
    )


def _one_of(header: str, value: str, choices: tuple[str, ...] | list[str]) -> str:
    if value not in choices:
        message = f"The header {header} is {value!r}; choose one of {', '.join(choices)}."
        raise InvalidRequest(message, param=header, code="invalid_value")
    return value
