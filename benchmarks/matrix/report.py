"""What the matrix found, as lines and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.differences import near_tie_nats
from benchmarks.exactness.matrix import Compared

__all__ = ["describe", "matrix_json", "summary"]


def summary(name: str, results: Sequence[Compared]) -> str:
    """`identical A/B` and what the drafts went through."""
    same = sum(each.difference is None for each in results)
    drafted, accepted = sum(each.drafted for each in results), sum(each.accepted for each in results)
    rebuilt = sum(each.rebuilt for each in results)
    return (
        f"{name}: identical {same}/{len(results)} "
        f"({accepted} of {drafted} drafts accepted, {rebuilt} sessions rebuilt)"
    )


def describe(compared: Compared, limit_nats: float, decode: Callable[[int], str]) -> str:
    """Where, in what and why two texts part."""
    difference, margin = compared.difference, compared.margin
    assert difference is not None
    plain, ours = (_shown(token, decode) for token in (difference.plain_token, difference.our_token))
    where = (
        f"  {compared.name}, seed {compared.seed}, batch of {compared.batch_size}: differs at generated "
        f"token {difference.position}, target alone {plain}, session {ours}"
    )
    if margin is None:
        return f"{where}: unexplained (their logits are not known)"
    return f"{where}: {'near-tie' if margin.is_tie(limit_nats) else 'unexplained'} ({margin})"


def matrix_json(results: Sequence[Compared], num_tokens: int, dtype: str | None) -> dict[str, Any]:
    """The counts of each setting and of all, and every difference."""
    settings = dict.fromkeys(each.setting for each in results)
    return {
        **_counts(results),
        "tokens": num_tokens,
        "dtype": dtype,
        "near_tie_nats": near_tie_nats(dtype),
        "settings": {name: _counts([each for each in results if each.setting == name]) for name in settings},
        "differences": [asdict(each) for each in results if each.difference is not None],
    }


def _counts(results: Sequence[Compared]) -> dict[str, int]:
    return {
        "num_identical": sum(each.difference is None for each in results),
        "num_compared": len(results),
        "drafted": sum(each.drafted for each in results),
        "accepted": sum(each.accepted for each in results),
        "rebuilt": sum(each.rebuilt for each in results),
    }


def _shown(token: int | None, decode: Callable[[int], str]) -> str:
    return "(ended)" if token is None else f"{decode(token)!r} ({token})"
