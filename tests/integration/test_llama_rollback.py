"""Whatever happened to the cache before, a draft is that of the same tokens evaluated from scratch.

Shown on tiny models with random float32 weights, one with attention and one with a recurrent
state, which cannot go back to an earlier position. (With quantised weights, as in SmolLM2, drafts
depend a little on how tokens were batched: activations are quantised too, and rounding flips.)
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_agent.drafting.llama.context import DecodeStatus, LlamaContext
from edge_agent.drafting.llama.drafter import LlamaDrafter, LlamaSettings
from edge_agent.drafting.llama.slots import Chunk
from edge_agent.errors import DraftCapacityError
from edge_agent.sampling import DraftToken, most_likely

gguf = pytest.importorskip("gguf")

VOCABULARY = 64
WIDTH = 32
SETTINGS = LlamaSettings(n_ctx=96, max_sequences=3, n_batch=16)

Shapes = Mapping[str, tuple[int, ...]]

COMMON: Shapes = {
    "token_embd.weight": (VOCABULARY, WIDTH),
    "output_norm.weight": (WIDTH,),
    "output.weight": (VOCABULARY, WIDTH),
    "blk.0.attn_norm.weight": (WIDTH,),
}
LLAMA: Shapes = {
    "blk.0.attn_q.weight": (WIDTH, WIDTH),
    "blk.0.attn_k.weight": (WIDTH, WIDTH),
    "blk.0.attn_v.weight": (WIDTH, WIDTH),
    "blk.0.attn_output.weight": (WIDTH, WIDTH),
    "blk.0.ffn_norm.weight": (WIDTH,),
    "blk.0.ffn_gate.weight": (WIDTH, WIDTH),
    "blk.0.ffn_up.weight": (WIDTH, WIDTH),
    "blk.0.ffn_down.weight": (WIDTH, WIDTH),
}
INNER, STATE, KERNEL, RANK = 2 * WIDTH, 4, 4, 4
MAMBA: Shapes = {
    "blk.0.ssm_in.weight": (2 * INNER, WIDTH),
    "blk.0.ssm_conv1d.weight": (INNER, KERNEL),
    "blk.0.ssm_conv1d.bias": (INNER,),
    "blk.0.ssm_x.weight": (RANK + 2 * STATE, INNER),
    "blk.0.ssm_dt.weight": (INNER, RANK),
    "blk.0.ssm_dt.bias": (INNER,),
    "blk.0.ssm_a": (INNER, STATE),
    "blk.0.ssm_d": (INNER,),
    "blk.0.ssm_out.weight": (WIDTH, INNER),
}


def write_model(path: Path, architecture: str, shapes: Shapes, *, heads: int, feed_forward: int) -> None:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"t{token}" for token in range(VOCABULARY)])
    writer.add_token_merges(["t 0"])
    for name, shape in {**COMMON, **shapes}.items():
        weights = rng.normal(0, 0.4, shape).astype(np.float32)
        writer.add_tensor(name, -np.exp(weights) if name.endswith("ssm_a") else weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module", params=["llama", "mamba"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    if request.param == "llama":
        write_model(path, "llama", LLAMA, heads=2, feed_forward=WIDTH)
    else:
        write_model(path, "mamba", MAMBA, heads=0, feed_forward=0)
    return path


class Scratch:
    """Evaluates token lists from their first token, in an otherwise empty cache."""

    def __init__(self, model: Path) -> None:
        self.context = LlamaContext(model, LlamaSettings(n_ctx=64, max_sequences=1))

    def logits(self, tokens: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        self.context.clear(0)
        assert self.context.decode([Chunk(0, 0, tuple(tokens), completes=True)]) is DecodeStatus.DONE
        return self.context.logits(len(tokens) - 1).copy()

    def assert_agrees(self, tokens: Sequence[int], drafted: DraftToken) -> None:
        logits = self.logits(tokens)
        assert logits[drafted.token_id] >= logits.max() - 0.01
        expected = most_likely(logits, np.empty_like(logits))
        assert drafted.probability == pytest.approx(expected.probability, abs=0.003)


@pytest.fixture
def scratch(model: Path) -> Iterator[Scratch]:
    scratch = Scratch(model)
    yield scratch
    scratch.context.close()


@pytest.fixture
def drafter(model: Path) -> Iterator[LlamaDrafter]:
    drafter = LlamaDrafter.load(model, SETTINGS)
    yield drafter
    drafter.close()


def test_the_models_look_at_their_whole_context(scratch: Scratch) -> None:
    """The comparison below can tell: another token four places back changes the logits."""
    rng = random.Random(0)
    changes = []
    for _ in range(20):
        tokens = rng.choices(range(VOCABULARY), k=12)
        other = [*tokens[:-5], (tokens[-5] + 1) % VOCABULARY, *tokens[-4:]]
        changes.append(np.abs(scratch.logits(tokens) - scratch.logits(other)).max())
    assert np.median(changes) > 0.1


class Walk:
    """Random calls of a drafter; `held` is what each open sequence must hold."""

    def __init__(self, drafter: LlamaDrafter, scratch: Scratch, seed: int) -> None:
        self.drafter = drafter
        self.scratch = scratch
        self.rng = random.Random(seed)
        self.held: dict[int, list[int]] = {}
        self.drafts = 0
        self.refusals = 0
        self.prompt = self.rng.choices(range(VOCABULARY), k=20)

    def tokens(self) -> list[int]:
        """Often the start of one and the same prompt, so that prefixes get reused."""
        start = self.prompt[: self.rng.choice([0, 5, 20])]
        return start + self.rng.choices(range(VOCABULARY), k=self.rng.randint(1, 20))

    def open(self) -> None:
        tokens = self.tokens()
        try:
            self.held[self.drafter.open(tokens)] = tokens
        except DraftCapacityError:
            self.refusals += 1

    def rewrite(self) -> None:
        sequence = self.rng.choice(list(self.held))
        length = self.rng.randint(0, len(self.held[sequence]))
        tokens = self.rng.choices(range(VOCABULARY), k=self.rng.choice([1, 2, 30]))
        try:
            self.drafter.rewrite(sequence, length, tokens)
        except DraftCapacityError:
            self.refusals += 1
        else:
            self.held[sequence][length:] = tokens

    def draft(self) -> None:
        sequences = self.rng.sample(list(self.held), self.rng.randint(1, len(self.held)))
        for sequence, token in self.drafter.draft(sequences).items():
            self.scratch.assert_agrees(self.held[sequence], token)
            self.held[sequence].append(token.token_id)
            self.drafts += 1

    def abort(self) -> None:
        self.drafter.request_abort()
        assert self.drafter.draft(list(self.held)) == {}

    def close(self) -> None:
        sequence = self.rng.choice(list(self.held))
        self.drafter.close_sequence(sequence)
        del self.held[sequence]

    def step(self) -> None:
        if not self.held:
            self.open()
            return
        steps = [self.open, self.rewrite, self.draft, self.abort, self.close]
        self.rng.choices(steps, weights=[2, 3, 10, 1, 1])[0]()


@pytest.mark.parametrize("seed", range(4))
def test_drafts_depend_on_the_tokens_alone(drafter: LlamaDrafter, scratch: Scratch, seed: int) -> None:
    """Opening, rewriting, aborting, closing, sharing and evicting in any order leave no trace in a draft."""
    walk = Walk(drafter, scratch, seed)
    for _ in range(400):
        walk.step()
    assert walk.drafts > 50
    assert walk.refusals > 10


def test_rolling_a_recurrent_model_back_evaluates_it_again(drafter: LlamaDrafter) -> None:
    """Attention forgets positions for free; a state is rebuilt from the tokens, slower but exactly."""
    sequence = drafter.open([1, 2, 3, 4])
    for _ in range(3):
        drafter.draft([sequence])
    assert drafter.evaluated_tokens == 4 + 2
    drafter.rewrite(sequence, 5, [9])
    drafter.draft([sequence])
    assert drafter.evaluated_tokens - 6 == (1 if drafter.info.name == "llama" else 6)
