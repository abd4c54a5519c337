"""A toy vocabulary, target and draft for tests of the session loop."""

from collections.abc import Callable, Sequence

import pytest

from edge_agent.sampling import DraftToken
from edge_agent.testing import FakeDrafter

VOCABULARY = [f"t{i}" for i in range(100)]


def target_next(tokens: Sequence[int]) -> int:
    """The target's choice: any fixed function of the whole prefix will do."""
    return (7 * len(tokens) + 3 * tokens[-1] + tokens[0]) % 100


def target_text(prompt: Sequence[int], num_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(target_next(tokens))
    return tokens[len(prompt) :]


@pytest.fixture
def make_drafter() -> Callable[..., FakeDrafter]:
    """A drafter that is wrong at every `wrong_every`-th position (0: never)."""

    def make(wrong_every: int = 0, **options: object) -> FakeDrafter:
        def draft(tokens: Sequence[int]) -> DraftToken:
            right = target_next(tokens)
            if wrong_every and len(tokens) % wrong_every == 0:
                return DraftToken((right + 1) % 100, 0.6)
            return DraftToken(right, 0.95)

        return FakeDrafter(draft, VOCABULARY, **options)  # type: ignore[arg-type]

    return make
