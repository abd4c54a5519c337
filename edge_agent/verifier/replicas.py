"""Which of several servers of one target is asked first, and which next if it does not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from edge_agent.errors import TRANSIENT, CloudError, CloudMisbehaved, TargetChanged

__all__ = ["Replicas"]

T = TypeVar("T")

_FIRST_AWAY_S: Final = 2.0
_LONGEST_AWAY_S: Final = 60.0


class Replicas:
    """An order of servers: as they were given, those that failed lately last.

    A server that failed is asked after the others for 2 s, twice as long after each further failure, up to
    60 s. Pure: `clock` gives seconds.
    """

    def __init__(self, num: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._away_s = [0.0] * num
        self._until_s = [0.0] * num

    def order(self) -> list[int]:
        """Indices of all servers, the one to be asked first in front."""
        now_s = self._clock()
        return sorted(range(len(self._until_s)), key=lambda number: max(0.0, self._until_s[number] - now_s))

    def answered(self, number: int) -> None:
        """It is there."""
        self._away_s[number] = self._until_s[number] = 0.0

    def failed(self, number: int, for_s: float | None = None) -> None:
        """It did not answer, or asks to be left alone for `for_s`."""
        self._away_s[number] = min(max(2 * self._away_s[number], _FIRST_AWAY_S), _LONGEST_AWAY_S)
        self._until_s[number] = self._clock() + max(self._away_s[number], for_s or 0.0)

    @property
    def has_another(self) -> bool:
        """Whether some server has not failed lately."""
        return any(not away_s for away_s in self._away_s)

    async def ask(self, question: Callable[[int], Awaitable[T]]) -> T:
        """What the first server says that answers `question(number)`.

        Raises `CloudError` if none does: one after which a later attempt can succeed, if there is one.
        """
        errors: list[CloudError] = []
        for number in self.order():
            try:
                answer = await question(number)
            except TargetChanged as error:
                errors.append(error)
            except (*TRANSIENT, CloudMisbehaved) as error:
                self.failed(number, getattr(error, "retry_after_s", None))
                errors.append(error)
            except CloudError as error:
                errors.append(error)
            else:
                self.answered(number)
                return answer
        raise next(
            (e for e in errors if isinstance(e, TRANSIENT) and not isinstance(e, TargetChanged)), errors[0]
        )
