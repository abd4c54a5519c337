"""What applies to each row of a step's logits when its token is chosen."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RowRules"]


@dataclass(frozen=True, slots=True)
class RowRules:
    """What applies to n rows, each field with n entries. `temperature` 0 is greedy, `top_k` 0 is no limit."""

    seed: list[int]
    position: list[int]
    temperature: list[float]
    top_p: list[float]
    top_k: list[int]
    min_p: list[float]

    def at(self, rows: list[int]) -> RowRules:
        """The rules of `rows` alone."""
        return RowRules(
            [self.seed[row] for row in rows],
            [self.position[row] for row in rows],
            [self.temperature[row] for row in rows],
            [self.top_p[row] for row in rows],
            [self.top_k[row] for row in rows],
            [self.min_p[row] for row in rows],
        )
