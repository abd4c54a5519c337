"""Output of the commands besides their results, all of it on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

__all__ = ["live_status", "stderr"]

_PLAIN_INTERVAL_S = 10.0

stderr = Console(stderr=True, highlight=False)


@contextmanager
def live_status(console: Console = stderr) -> Iterator[Callable[[str], None]]:
    """A function that shows progress in one live line; without a terminal, it prints a line every 10 s."""
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(escape(text[: max(20, console.width - 4)]))
    else:
        yield _plain(console)


def _plain(console: Console) -> Callable[[str], None]:
    last_s = float("-inf")

    def show(text: str) -> None:
        nonlocal last_s
        if (now_s := time.monotonic()) - last_s >= _PLAIN_INTERVAL_S:
            last_s = now_s
            console.print(escape(text), soft_wrap=True)

    return show
