"""An event loop on which delays are short, for modules that say so by `LOOP = HastyLoop`."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any

import pytest

__all__ = ["HastyLoop"]

FACTOR = 20.0


class HastyLoop(asyncio.SelectorEventLoop):
    """Waits a twentieth of what is asked for: the delays between attempts to reach a verifier that is away.

    `asyncio.timeout` goes by points in time and is as long as ever, so a busy machine fails nothing.
    """

    def call_later(  # type: ignore[override] # typeshed types the arguments one by one
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_later(delay / FACTOR, callback, *args, context=context)


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """The module's own loop, if it has one."""
    return {"loop": getattr(getattr(item, "module", None), "LOOP", asyncio.new_event_loop)}
