"""uvicorn within a test's own process."""

from contextlib import AbstractContextManager, nullcontext

import uvicorn

__all__ = ["QuietServer"]


class QuietServer(uvicorn.Server):
    """Leaves the process' signal handlers alone.

    Of two servers that end in the order in which they began, the second would put the first one's handler
    back, by which SSE responses of later servers see one that is ending.
    """

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()
