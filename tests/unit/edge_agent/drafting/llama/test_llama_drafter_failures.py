"""What the llama.cpp drafter does when its context fails, and its arithmetic; no model needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.drafting.llama import loading
from edge_agent.drafting.llama.context import DecodeStatus, LlamaContext
from edge_agent.drafting.llama.drafter import LlamaDrafter, LlamaSettings
from edge_agent.drafting.llama.slots import Chunk
from edge_agent.errors import ConfigError, DraftCapacityError, ModelError
from edge_agent.sampling import DraftToken, most_likely

ALL = -1


class StubContext(LlamaContext):
    """A model context without a model: answers `decode` from a list, remembers what is cleared."""

    name = "stub"
    num_tokens = 8
    context_length = 64

    def __init__(self, *answers: DecodeStatus, is_recurrent: bool = False) -> None:
        self.answers = list(answers)
        self.is_recurrent = is_recurrent
        self.decoded: list[Sequence[Chunk]] = []
        self.cleared: list[int] = []
        self.is_aborted = False

    def decode(self, chunks: Sequence[Chunk]) -> DecodeStatus:
        self.decoded.append(chunks)
        answer = self.answers.pop(0)
        return DecodeStatus.ABORTED if self.is_aborted else answer

    def logits(self, index: int) -> NDArray[np.float32]:
        return np.arange(8, dtype=np.float32)

    def remove(self, sequence: int, start: int) -> bool:
        return True

    def clear(self, sequence: int) -> None:
        self.cleared.append(sequence)

    def clear_all(self) -> None:
        self.cleared.append(ALL)

    def copy(self, source: int, target: int, length: int) -> None: ...

    def token_text(self, token: int) -> str:
        return str(token)

    def request_abort(self) -> None:
        self.is_aborted = True

    def clear_abort(self) -> None:
        self.is_aborted = False

    def close(self) -> None: ...


def test_a_full_cache_gives_up_closed_sequences_and_tries_once_more() -> None:
    """If llama.cpp finds no cells although there should be some, closed sequences go first."""
    context = StubContext(DecodeStatus.DONE, DecodeStatus.NO_CELLS, DecodeStatus.DONE)
    drafter = LlamaDrafter(context, LlamaSettings(n_ctx=64))
    closed = drafter.open([1, 2])
    drafter.draft([closed])
    drafter.close_sequence(closed)
    sequence = drafter.open([3, 4])
    assert drafter.draft([sequence])[sequence].token_id == 7
    assert context.cleared == [closed]
    assert context.decoded[1] == context.decoded[2]


@pytest.mark.parametrize(
    ("status", "error"), [(DecodeStatus.NO_CELLS, DraftCapacityError), (DecodeStatus.FAILED, ModelError)]
)
def test_a_failed_call_leaves_everything_pending(status: DecodeStatus, error: type[Exception]) -> None:
    """After an error the same call can be made again and evaluates the same tokens."""
    context = StubContext(status, DecodeStatus.DONE)
    drafter = LlamaDrafter(context, LlamaSettings(n_ctx=64))
    sequences = [drafter.open([1, 2]), drafter.open([3])]
    with pytest.raises(error):
        drafter.draft(sequences)
    assert drafter.evaluated_tokens == 0
    assert set(drafter.draft(sequences)) == set(sequences)
    assert context.decoded[0] == context.decoded[1]


def test_aborting_a_recurrent_model_gives_up_all_states() -> None:
    """An interrupted evaluation can leave other sequences' states misplaced, so none is trusted."""
    answers = [DecodeStatus.DONE, DecodeStatus.ABORTED, DecodeStatus.DONE]
    context = StubContext(*answers, is_recurrent=True)
    drafter = LlamaDrafter(context, LlamaSettings(n_ctx=64))
    bystander = drafter.open([1, 2])
    drafter.draft([bystander])
    sequence = drafter.open([3])
    assert drafter.draft([sequence]) == {}
    assert context.cleared == [ALL]
    drafter.draft([sequence, bystander])
    assert context.decoded[-1] == [
        Chunk(sequence, 0, (3,), completes=True),
        Chunk(bystander, 0, (1, 2, 7), completes=True),
    ]


class Interrupted:
    """A picker during whose first pick an abort is requested."""

    def __init__(self, drafter: LlamaDrafter) -> None:
        self._drafter = drafter

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        self._drafter.request_abort()
        return DraftToken(7, 1.0)

    def rewind(self, length: int) -> None: ...


def test_an_abort_that_comes_too_late_does_not_hit_another_sequence() -> None:
    """Requested after the evaluation, while the call still picks, it ends with that call."""
    drafter = LlamaDrafter(StubContext(*[DecodeStatus.DONE] * 2), LlamaSettings(n_ctx=64))
    late, other = drafter.open([1, 2], Interrupted(drafter)), drafter.open([3])
    assert set(drafter.draft([late])) == {late}
    assert set(drafter.draft([other])) == {other}


def test_an_abort_before_a_call_is_for_that_call_alone() -> None:
    """The next call that evaluates returns nothing, the one after it makes up for it."""
    context = StubContext(*[DecodeStatus.DONE] * 2)
    drafter = LlamaDrafter(context, LlamaSettings(n_ctx=64))
    sequence = drafter.open([1, 2])
    drafter.request_abort()
    assert drafter.draft([]) == {}
    assert drafter.draft([sequence]) == {}
    assert set(drafter.draft([sequence])) == {sequence}
    assert context.decoded[0] == context.decoded[1]


@pytest.mark.parametrize(("token_s", "sizes"), [(0.001, [32, 100, 100, 100, 68]), (0.01, [32] * 4)])
def test_a_long_prompt_holds_up_others_no_longer_than_told(token_s: float, sizes: list[int]) -> None:
    """The first call measures how fast a prompt is read; a slow model keeps to short calls."""
    now_s = 0.0

    class Slow(StubContext):
        context_length = 512

        def decode(self, chunks: Sequence[Chunk]) -> DecodeStatus:
            nonlocal now_s
            now_s += token_s * sum(len(chunk.tokens) for chunk in chunks)
            return super().decode(chunks)

    context = Slow(*[DecodeStatus.DONE] * len(sizes))
    settings = LlamaSettings(n_ctx=512, longest_call_s=0.1)
    drafter = LlamaDrafter(context, settings, lambda: now_s)
    sequence = drafter.open([1] * sum(sizes))
    drafts = [drafter.draft([sequence]) for _ in sizes]
    assert [len(chunk.tokens) for [chunk] in context.decoded] == sizes
    assert [sequence in draft for draft in drafts] == [*[False] * (len(sizes) - 1), True]


@pytest.mark.parametrize(
    ("asked", "has_gpu", "tried"),
    [(None, True, [-1, 0]), (None, False, [-1]), (7, True, [7]), (-1, True, [-1])],
)
def test_a_model_that_does_not_fit_the_gpu_runs_on_the_cpu(
    asked: int | None, has_gpu: bool, tried: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unless layers were asked for by number."""
    seen: list[int] = []

    def refuse(path: Path, settings: LlamaSettings, num_gpu_layers: int) -> Any:
        seen.append(num_gpu_layers)
        raise ModelError("out of memory")

    monkeypatch.setattr(loading, "_load_model", refuse)
    monkeypatch.setattr("llama_cpp.llama_supports_gpu_offload", lambda: has_gpu)
    file = tmp_path / "model.gguf"
    with pytest.raises(ModelError, match="cannot be read"):
        LlamaDrafter.load(file, LlamaSettings(n_gpu_layers=asked))
    assert seen == []
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="out of memory"):
        LlamaDrafter.load(file, LlamaSettings(n_gpu_layers=asked))
    assert seen == tried


def test_settings_that_make_no_sense_are_refused() -> None:
    """Values llama.cpp would crash on or silently change never reach it."""
    for name in ("n_ctx", "max_sequences", "n_threads", "n_batch"):
        change: dict[str, Any] = {name: 0}
        with pytest.raises(ConfigError, match=f"{name} of the draft model is 0: set it to"):
            LlamaSettings(**change)
    with pytest.raises(ConfigError, match=r"set it to max_sequences \(4\) or more"):
        LlamaSettings(n_batch=3, max_sequences=4)
    with pytest.raises(ConfigError, match="kv_type of the draft model is 'q9': choose f16"):
        LlamaSettings(kv_type="q9")


def test_the_probability_is_the_softmax_of_the_pick() -> None:
    """Greedy pick and its probability agree with a plain double precision softmax."""
    logits = np.random.default_rng(0).normal(0, 4, 49152).astype(np.float32)
    token = most_likely(logits, np.empty_like(logits))
    weights = np.exp(logits.astype(np.float64))
    assert token.token_id == int(weights.argmax())
    assert token.probability == pytest.approx(weights.max() / weights.sum(), rel=1e-5)
    for broken in (np.nan, np.inf):
        logits[7] = broken
        with np.errstate(invalid="ignore"), pytest.raises(ModelError, match="damaged"):
            most_likely(logits, np.empty_like(logits))
