"""Runs a slow search method in the background, so that it never delays tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import CancelledError, Executor, Future
from typing import Final, Protocol

from edge_agent.control.tuning.search import Evaluation, Proposer, Suggestion

__all__ = ["NUM_FIRST", "BackgroundProposer", "Solver"]

logger = logging.getLogger("pipesd.tuning")

NUM_FIRST: Final = 6
"""Number of evaluations, start points included, before a model is worth its time."""


class Solver(Protocol):
    """A search method that may be slow or fail. Used from one thread at a time."""

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        """See `Proposer`; blocks, may raise anything."""
        ...


class BackgroundProposer:
    """A `Proposer` that runs `solver` in `executor`; it answers None until the result is there.

    Between question and answer the evaluations must stay the same. `fallback`, which is quick, gives the
    first points, and one each time `solver` fails.
    """

    def __init__(
        self, solver: Solver, fallback: Proposer, executor: Executor, num_first: int = NUM_FIRST
    ) -> None:
        self._solver = solver
        self._fallback = fallback
        self._executor = executor
        self._num_first = num_first
        self._answer: Future[Suggestion] | None = None
        self._has_failed = False

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion | None:
        """Start a computation, or fetch the answer of the one that was started."""
        if len(evaluations) < self._num_first:
            return self._fallback.suggest(evaluations)
        try:
            if self._answer is None:
                self._answer = self._executor.submit(self._solver.suggest, tuple(evaluations))
            if not self._answer.done():
                return None
            answer, self._answer = self._answer, None
            return answer.result()
        except (Exception, CancelledError) as error:  # numerics, a dead process, an executor shut down
            self._warn_once(error)
            return self._fallback.suggest(evaluations)

    def _warn_once(self, error: BaseException) -> None:
        if not self._has_failed:
            logger.warning("the tuner's model failed (%r): it fills the space evenly instead", error)
        self._has_failed = True
