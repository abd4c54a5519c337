"""Ending tasks whose outcome nobody waits for any more."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["cancel_and_wait"]


async def cancel_and_wait(task: asyncio.Future[Any]) -> None:
    """Cancel `task` if it has not ended, and return once it has. What it returned or raised is dropped."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
