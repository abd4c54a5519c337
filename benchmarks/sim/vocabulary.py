"""What a draft of another vocabulary is worth: its acceptance beside that of the same model in the target's.

The target is recorded (`benchmarks/sim/agreements`), the draft the bundled model, as it is and with its
tokens in another order, some of them taken out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from benchmarks.pairs.other_vocabulary import respell, shuffled
from benchmarks.sim.agreements import RecordedAnswer, read_pair
from benchmarks.sim.recording import record_answer
from edge_agent.drafting import Drafter, TranslatingDrafter, VocabularyMap, embedded_model

__all__ = ["DROPPED", "Worth", "measured", "vocabulary"]

_PAIR: Final = "embedded"
DROPPED: Final = (0.0, 0.1, 0.3)


class Worth(NamedTuple):
    """Of a draft without a share `dropped` of the target's tokens; shares of all positions."""

    dropped: float
    shared: float
    acceptance: float
    native: float


def vocabulary(
    answers: Annotated[int, typer.Option("--answers", min=1, help="Recorded answers.")] = 8,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of the draft model.")] = 2,
) -> None:
    """Acceptance of a draft whose vocabulary is not the target's, beside the same model in the target's."""
    for temperature in (0.0, 0.8):
        asked = [answer for answer in read_pair(_PAIR).answers if answer.temperature == temperature][:answers]
        for found in measured(asked, DROPPED, threads):
            print(
                f"T={temperature:g}, {found.dropped:.0%} of the merges taken out: {found.shared:.0%} of the "
                f"target's tokens are there, acceptance {found.acceptance:.3f}, native {found.native:.3f}, "
                f"{found.acceptance / found.native:.3f} of it"
            )


def measured(
    answers: Sequence[RecordedAnswer], dropped: Sequence[float], num_threads: int = 2
) -> Iterator[Worth]:
    """The bundled model along `answers`."""
    source = embedded_model()
    with tempfile.TemporaryDirectory() as folder:
        drafter = _loaded(source, num_threads)
        native, target = _agreement(drafter, answers), drafter.vocabulary()
        drafter.close()
        for share in dropped:
            path = Path(folder, "respelled.gguf")
            respell(source, path, shuffled(source, share), "respelled")
            translating = TranslatingDrafter(_loaded(path, num_threads))
            made = translating.vocabulary_map = VocabularyMap(target, translating.vocabulary())
            yield Worth(share, made.shared, _agreement(translating, answers), native)
            translating.close()


def _loaded(path: Path, num_threads: int) -> Drafter:
    from edge_agent.drafting.llama.drafter import LlamaDrafter, LlamaSettings

    return LlamaDrafter.load(path, LlamaSettings(n_ctx=4096, n_threads=num_threads))


def _agreement(drafter: Drafter, answers: Sequence[RecordedAnswer]) -> float:
    followed = [record_answer(drafter, answer) for answer in answers]
    same = sum(answer.agreement * len(answer.tokens) for answer in followed)
    return same / sum(len(answer.tokens) for answer in followed)
