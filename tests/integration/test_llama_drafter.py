"""The llama.cpp drafter with a real model, SmolLM2-135M."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_agent.drafting import Drafter, embedded_model
from edge_agent.drafting.llama.context import DecodeStatus, LlamaContext
from edge_agent.drafting.llama.drafter import LlamaDrafter, LlamaSettings
from edge_agent.drafting.llama.slots import Chunk
from edge_agent.errors import DraftCapacityError, ModelError, PairingError
from edge_agent.sampling import DraftToken, most_likely
from pipesd_vllm.wire import fingerprint

SMALL = LlamaSettings(n_ctx=512, n_batch=64)

# "The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is" and
# "One, two, three, four, five, six," in SmolLM2's tokens: continuations without near ties.
CAPITALS = [
    504,
    3575,
    282,
    4649,
    314,
    7042,
    30,
    378,
    3575,
    282,
    4521,
    314,
    11452,
    30,
    378,
    3575,
    282,
    7158,
    314,
]
NUMBERS = [2705, 28, 827, 28, 1296, 28, 1876, 28, 2531, 28, 2976, 28]


class Scratch:
    """Evaluates token lists from their first token, in an otherwise empty cache."""

    def __init__(self, model: Path) -> None:
        self.context = LlamaContext(model, LlamaSettings(n_ctx=512, max_sequences=1))

    def draft(self, tokens: Sequence[int], count: int = 1) -> list[DraftToken]:
        """The `count` tokens that follow, each from a new evaluation of all before it."""
        tokens = list(tokens)
        drafted = []
        for _ in range(count):
            self.context.clear(0)
            assert self.context.decode([Chunk(0, 0, tuple(tokens), completes=True)]) is DecodeStatus.DONE
            logits = self.context.logits(len(tokens) - 1)
            drafted.append(most_likely(logits, np.empty_like(logits)))
            tokens.append(drafted[-1].token_id)
        return drafted


@pytest.fixture(scope="module")
def model() -> Path:
    return embedded_model()


@pytest.fixture
def drafter(model: Path) -> Iterator[LlamaDrafter]:
    drafter = LlamaDrafter.load(model, SMALL)
    yield drafter
    drafter.close()


@pytest.fixture(scope="module")
def scratch(model: Path) -> Iterator[Scratch]:
    scratch = Scratch(model)
    yield scratch
    scratch.context.close()


def finish(drafter: Drafter, sequence: int) -> DraftToken:
    """Call `draft` until the sequence gets its token."""
    while True:
        if token := drafter.draft([sequence]).get(sequence):
            return token


def assert_same(drafted: Sequence[DraftToken], expected: Sequence[DraftToken]) -> None:
    """Equal ids; probabilities up to rounding, which with quantised weights depends on the batches."""
    assert [token.token_id for token in drafted] == [token.token_id for token in expected]
    assert [token.probability for token in drafted] == pytest.approx(
        [token.probability for token in expected], abs=0.03
    )


def test_the_model_is_described(drafter: LlamaDrafter) -> None:
    """Sessions learn the vocabulary size and the limits from `info`."""
    typed: Drafter = drafter
    assert typed.info.name == "SmolLM2-135M-Instruct.Q4_1"
    assert (typed.info.num_tokens, typed.info.max_sequences) == (49152, 4)
    assert typed.info.context_length == 512


def test_the_context_is_not_longer_than_the_model_was_trained_for(model: Path) -> None:
    """A larger cache serves more sequences, not longer ones."""
    drafter = LlamaDrafter.load(model, LlamaSettings(n_ctx=8448))
    assert drafter.info.context_length == 8192
    drafter.close()


def test_the_fingerprint_is_that_of_the_token_strings(drafter: LlamaDrafter) -> None:
    """A server can compute the same from its tokenizer file; a part of the vocabulary can be asked for."""
    assert drafter.fingerprint(4) == fingerprint(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    )
    assert drafter.fingerprint(10**9).num_tokens == 49152


def test_interleaved_sequences_draft_as_if_alone(drafter: LlamaDrafter, scratch: Scratch) -> None:
    """Several sequences in one cache and one call do not see each other."""
    prompts = [CAPITALS, NUMBERS, CAPITALS[:13]]
    sequences = [drafter.open(prompt) for prompt in prompts]
    drafted: dict[int, list[DraftToken]] = {sequence: [] for sequence in sequences}
    for _ in range(4):
        for sequence, token in drafter.draft(sequences).items():
            drafted[sequence].append(token)
    for sequence, prompt in zip(sequences, prompts, strict=True):
        assert_same(drafted[sequence], scratch.draft(prompt, 4))


def test_rollback_is_exact(drafter: LlamaDrafter, scratch: Scratch) -> None:
    """After any rewrite the draft is that of a sequence that never held the dropped tokens."""
    sequence = drafter.open(CAPITALS)
    for _ in range(6):
        finish(drafter, sequence)
    drafter.rewrite(sequence, len(CAPITALS) + 1, [])  # keeps one draft
    drafter.rewrite(sequence, len(CAPITALS), [])  # drops all drafts
    assert_same([finish(drafter, sequence)], scratch.draft(CAPITALS))
    drafter.rewrite(sequence, 3, NUMBERS)  # back into the prompt
    expected = [*CAPITALS[:3], *NUMBERS]
    assert_same([finish(drafter, sequence) for _ in range(3)], scratch.draft(expected, 3))
    drafter.rewrite(sequence, 0, CAPITALS)  # everything
    assert_same([finish(drafter, sequence)], scratch.draft(CAPITALS))


def test_rollback_evaluates_only_what_changed(drafter: LlamaDrafter) -> None:
    """A rejection costs the replaced tokens, not the prompt."""
    sequence = drafter.open(CAPITALS)
    for _ in range(4):
        finish(drafter, sequence)
    before = drafter.evaluated_tokens
    drafter.rewrite(sequence, len(CAPITALS) + 1, [7])
    finish(drafter, sequence)
    assert drafter.evaluated_tokens - before == 1


def test_the_next_turn_reuses_the_conversation(drafter: LlamaDrafter, scratch: Scratch) -> None:
    """A closed sequence's evaluated prefix is not evaluated again, and the draft is the same."""
    sequence = drafter.open(CAPITALS)
    reply = finish(drafter, sequence)
    drafter.close_sequence(sequence)
    turn = [*CAPITALS, reply.token_id, *NUMBERS]
    before = drafter.evaluated_tokens
    drafted = finish(drafter, drafter.open(turn))
    assert drafter.evaluated_tokens - before == len(turn) - len(CAPITALS)
    assert_same([drafted], scratch.draft(turn))


def test_a_prefix_of_an_open_sequence_is_shared(drafter: LlamaDrafter, scratch: Scratch) -> None:
    """A second request with the same start evaluates its own end only; rewriting one leaves the other."""
    first = drafter.open(CAPITALS)
    finish(drafter, first)
    before = drafter.evaluated_tokens
    other = [*CAPITALS[:14], *NUMBERS]
    second = drafter.open(other)
    drafted = finish(drafter, second)
    assert drafter.evaluated_tokens - before == len(NUMBERS)
    assert_same([drafted], scratch.draft(other))
    drafter.rewrite(first, 2, NUMBERS)
    drafter.rewrite(second, len(other), [])
    assert_same([finish(drafter, second)], scratch.draft(other))


def test_a_long_prompt_goes_in_chunks_beside_a_decoding_sequence(
    drafter: LlamaDrafter, scratch: Scratch
) -> None:
    """While 152 tokens are evaluated 64 a call, the other sequence gets a token in each call."""
    short = drafter.open(NUMBERS)
    finish(drafter, short)
    prompt = CAPITALS * 8
    long = drafter.open(prompt)
    results = [drafter.draft([long, short]) for _ in range(3)]
    assert [sorted(result) for result in results] == [[short], [short], [short, long]]
    assert_same([results[-1][long]], scratch.draft(prompt))


def test_a_capacity_error_leaves_every_sequence_as_it_was(drafter: LlamaDrafter, scratch: Scratch) -> None:
    """What does not fit is refused before anything changes."""
    first = drafter.open(CAPITALS)
    finish(drafter, first)
    second = drafter.open([5] * 480)
    room = drafter.room(first)
    with pytest.raises(DraftCapacityError):
        drafter.open([6] * 20)
    with pytest.raises(DraftCapacityError):
        drafter.rewrite(first, 1, [6] * 40)
    assert drafter.room(first) == room == 512 - 480 - len(CAPITALS) - 1
    drafter.close_sequence(second)
    drafter.rewrite(first, len(CAPITALS), [])
    assert_same([finish(drafter, first)], scratch.draft(CAPITALS))


def test_a_full_cache_is_used_to_the_last_cell(model: Path, scratch: Scratch) -> None:
    """Sequences grow until `room` is 0 and are then left out; closed ones make room for new ones."""
    settings = LlamaSettings(n_ctx=256, max_sequences=2, n_batch=256)
    drafter = LlamaDrafter.load(model, settings)
    first, second = drafter.open([5] * 120), drafter.open([6] * 130)
    for _ in range(3):
        assert set(drafter.draft([first, second])) == {first, second}
    assert drafter.draft([first, second]) == {}
    assert drafter.room(first) == drafter.room(second) == 0
    drafter.close_sequence(second)
    third = drafter.open(CAPITALS)  # needs cells of the closed one
    assert_same([finish(drafter, third)], scratch.draft(CAPITALS))
    drafter.close()


def test_an_abort_from_another_thread_ends_a_long_evaluation(model: Path, scratch: Scratch) -> None:
    """An interrupted call returns early with nothing; later drafts are as if it had not been.

    The quickest of a few counts: one call may be held up by the machine.
    """
    drafter = LlamaDrafter.load(model, LlamaSettings(n_ctx=512, n_batch=512))
    short = drafter.open(NUMBERS)
    finish(drafter, short)
    prompt = CAPITALS * 14
    long = drafter.open(prompt)
    before = drafter.evaluated_tokens
    aborted_s: list[float] = []
    for _ in range(5):
        threading.Timer(0.02, drafter.request_abort).start()
        began = time.monotonic()
        assert drafter.draft([short, long]) == {}
        aborted_s.append(time.monotonic() - began)
    assert drafter.evaluated_tokens == before
    began = time.monotonic()
    drafted = drafter.draft([short, long])
    assert set(drafted) == {short, long}
    assert min(aborted_s) < (time.monotonic() - began) / 2
    assert_same([drafted[short]], scratch.draft(NUMBERS, 2)[1:])
    assert_same([drafted[long]], scratch.draft(prompt))
    drafter.close()


def test_an_abort_between_calls_is_not_lost(drafter: LlamaDrafter) -> None:
    """A request that comes just before a call starts ends that call, and only that one."""
    sequence = drafter.open(CAPITALS)
    drafter.request_abort()
    assert drafter.draft([]) == {}
    assert drafter.draft([sequence]) == {}
    assert set(drafter.draft([sequence])) == {sequence}


def test_unknown_token_ids_are_refused(drafter: LlamaDrafter) -> None:
    """A target with a larger vocabulary cannot crash the draft model; the sequence is unchanged."""
    sequence = drafter.open(CAPITALS)
    for tokens in ([49152], [-1], [5, 2**31]):
        with pytest.raises(
            PairingError, match="49152 tokens: use a draft model with the target's vocabulary"
        ):
            drafter.rewrite(sequence, 1, tokens)
        with pytest.raises(PairingError):
            drafter.open(tokens)
    assert drafter.room(sequence) == 512 - len(CAPITALS)


def test_bad_files_say_what_to_do(model: Path, tmp_path: Path) -> None:
    """Missing, a folder, not GGUF, and cut off anywhere: one sentence each, and no crash."""
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    for path, message in (
        (tmp_path / "missing.gguf", "cannot be read .*: give the path of a GGUF file"),
        (tmp_path, "cannot be read .*: give the path of a GGUF file"),
        (text, "is not a GGUF file"),
    ):
        with pytest.raises(ModelError, match=message):
            LlamaDrafter.load(path, SMALL)
    with model.open("rb") as file:
        head = file.read(8 << 20)
    for size in (4, 20, 1000, 500_000, 8 << 20):
        cut = tmp_path / f"cut{size}.gguf"
        cut.write_bytes(head[:size])
        with pytest.raises(ModelError, match=r"cannot be loaded \(.+\): download it again"):
            LlamaDrafter.load(cut, SMALL)


def test_loading_and_drafting_print_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """llama.cpp's chatter stays out of the terminal, unless asked for."""
    LlamaDrafter.load(model, SMALL).close()
    assert capfd.readouterr() == ("", "")
    LlamaDrafter.load(model, LlamaSettings(n_ctx=512, debug=True)).close()
    assert "llama" in capfd.readouterr().err


def test_closing_is_idempotent_and_final(drafter: LlamaDrafter) -> None:
    """A closed model answers with an error, not with a crash."""
    sequence = drafter.open(CAPITALS)
    drafter.close()
    drafter.close()
    drafter.request_abort()
    with pytest.raises(ModelError, match="closed"):
        drafter.draft([sequence])


@pytest.mark.parametrize(
    "settings",
    [
        LlamaSettings(n_ctx=512, kv_type="q8_0", flash_attention=True, n_prompt_threads=2),
        LlamaSettings(n_ctx=512, flash_attention=False, n_gpu_layers=-1),
        LlamaSettings(n_ctx=512, longest_call_s=0.001),
    ],
    ids=["quantised cache", "no flash attention", "short calls"],
)
def test_other_engine_settings_draft_the_same(settings: LlamaSettings) -> None:
    """Where the text has no near ties."""
    drafter = LlamaDrafter.load(embedded_model(), settings)
    plain = LlamaDrafter.load(embedded_model(), SMALL)
    try:
        picks = []
        for each in (drafter, plain):
            sequence, made = each.open(CAPITALS), []
            while len(made) < 2:
                made += each.draft([sequence]).values()
            picks.append([draft.token_id for draft in made])
        assert picks[0] == picks[1]
    finally:
        drafter.close()
        plain.close()
