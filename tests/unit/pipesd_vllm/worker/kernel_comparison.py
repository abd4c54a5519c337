"""Compares each override of `cpu_kernels.KERNELS` with vLLM's kernel, interpreted, on the same random inputs.

A program, because overrides replace kernels in the whole process: it prints, as JSON, which kernels were
launched and in which cases a result differs. `test_cpu_kernels.py` runs it.
"""

from __future__ import annotations

from pipesd_vllm.launch.boot import boot

boot()  # before vLLM is imported

# ruff: noqa: E402
import functools
import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import torch
import vllm.v1.worker.cpu.shm  # noqa: F401 - vLLM's stand-ins for streams and shared buffers
from vllm.v1.worker.gpu import block_table, buffer_utils, input_batch, structured_outputs
from vllm.v1.worker.gpu.sample import gumbel, logit_bias, logprob, min_p, penalties
from vllm.v1.worker.gpu.spec_decode import rejection_sampler
from vllm.v1.worker.gpu.spec_decode.ngram.speculator import NgramGPUSpeculator

from pipesd_vllm.worker import cpu_kernels

Case = Callable[[], list[torch.Tensor]]
MAX_REQS: Final = 8
VOCAB: Final = 49152
SMALL_VOCAB: Final = 5000
LEAST: Final = float("-inf")
SUM_TOLERANCE: Final = 5e-6
"""Nats; the order in which `topk_log_softmax` adds up is its own."""

_generator = torch.Generator().manual_seed(1)


def integers(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=_generator, dtype=dtype)


def normals(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=_generator)


def some_states(number: int) -> torch.Tensor:
    """The rows of the requests of a batch, in any order."""
    return torch.randperm(MAX_REQS, generator=_generator)[:number]


def sums(counts: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int32), counts.cumsum(0).int()])


def mixed_batch(number: int, drafts: bool, prefill: bool) -> tuple[torch.Tensor, ...]:
    """States, query starts, logits' starts, computed tokens and prefill lengths of a step.

    With `prefill` the first request reads a piece of its prompt, the third the end of its own; with `drafts`
    too, the second starts within its prompt and has placeholders.
    """
    states = some_states(number)
    num_drafts = integers(0, 5, number) if drafts else torch.zeros(number, dtype=torch.int32)
    computed, prefill_len = integers(500, 600, MAX_REQS), integers(400, 500, MAX_REQS)
    lengths = num_drafts + 1
    for place, done, prompt, length in ((0, 96, 200, 60), (2, 100, 140, 40)):
        if prefill and place < number:
            computed[states[place]], prefill_len[states[place]] = done, prompt
            lengths[place], num_drafts[place] = length, 0
    if prefill and drafts and number > 1:
        computed[states[1]], prefill_len[states[1]] = 299, 300
        lengths[1], num_drafts[1] = 4, 3
    return states, sums(lengths), sums(num_drafts + 1), computed, prefill_len, num_drafts


def a_step(number: int, drafts: bool, prefill: bool) -> Case:
    """Inputs before a step, states after it."""
    states, starts, cu_logits, computed, prefill_len, num_drafts = mixed_batch(number, drafts, prefill)
    num_tokens, num_logits = int(starts[-1]), int(cu_logits[-1])
    input_ids, all_ids = integers(0, VOCAB, 256), integers(0, VOCAB, MAX_REQS, 1024)
    following = integers(0, 9, 3, MAX_REQS)
    last = integers(0, VOCAB, MAX_REQS, 1, dtype=torch.int64)
    draft_tokens = integers(0, VOCAB, MAX_REQS, 4, dtype=torch.int64)
    sampled = integers(0, VOCAB, number, 5, dtype=torch.int64)

    def run() -> list[torch.Tensor]:
        ids, after = input_ids.clone(), following.clone()
        pos, lengths = torch.zeros(256, dtype=torch.int64), torch.zeros(MAX_REQS, dtype=torch.int32)
        input_batch.prepare_prefill_inputs(ids, after, states, starts, all_ids, prefill_len, computed)
        input_batch.prepare_pos_seq_lens(states, starts, computed, pos, lengths)
        rows = input_batch.combine_sampled_and_draft_tokens(
            ids, states, last, starts, lengths, prefill_len, draft_tokens, cu_logits, num_logits
        )
        expanded, local_pos = input_batch.expand_idx_mapping(states, num_logits, cu_logits, 5)
        most = torch.minimum(torch.full((number,), 3, dtype=torch.int32), num_drafts + 1)
        num_sampled, num_rejected = input_batch.get_num_sampled_and_rejected(
            most.clone(), lengths, cu_logits, states, prefill_len
        )
        drafts_of_rows = rejection_sampler.gather_draft_sampled(
            ids, pos, rows, expanded, local_pos, prefill_len
        )
        done, newest, total = computed.clone(), last.clone(), prefill_len + 100
        counts, texts = torch.zeros(MAX_REQS, VOCAB, dtype=torch.int32), all_ids.clone()
        input_batch.post_update(
            states, done, newest, counts, sampled, num_sampled, num_rejected, starts, texts, total
        )
        flat = torch.zeros(num_logits, dtype=torch.int64)
        rejection_sampler._flatten_sampled_kernel[(number,)](
            flat, sampled, sampled.stride(0), num_sampled, cu_logits, num_warps=1
        )
        return [
            *(ids[:num_tokens], after, pos[:num_tokens], lengths, rows, expanded, local_pos),
            *(num_sampled, num_rejected, *drafts_of_rows, done, newest, total, counts, texts, flat),
        ]

    return run


def blocks(number: int, drafts: bool, sizes: list[int]) -> Case:
    """Block tables, for caches of one kind and of several."""
    states, starts, *_ = mixed_batch(number, drafts, prefill=True)
    tables = block_table.BlockTables(sizes, MAX_REQS, 256, [8] * len(sizes), torch.device("cpu"))
    before = [integers(1, 90, MAX_REQS, 8) for _ in sizes]
    pos = integers(0, 8 * min(sizes), 256, dtype=torch.int64)
    new = {int(state): tuple(integers(1, 90, 2).tolist() for _ in sizes) for state in states}

    def run() -> list[torch.Tensor]:
        for table, values, target in zip(tables.block_tables, before, tables.input_block_tables, strict=True):
            table.gpu.copy_(values)
            target.zero_()
        tables.num_blocks.np[:] = 5
        tables.slot_mappings.zero_()
        for state, ids in new.items():
            tables.append_block_ids(state, ids, overwrite=False)
        tables.apply_staged_writes()
        gathered = [table[:, :7].clone() for table in tables.gather_block_tables(states, number)]
        slots = tables.compute_slot_mappings(states, starts, pos, 256).clone()
        return [*(table.gpu.clone() for table in tables.block_tables), *gathered, slots]

    return run


def staged_write() -> Case:
    """Pieces of floats and integers into rows of a tensor."""
    pieces = [(int(row), int(integers(0, 9, 1)), normals(7).tolist()) for row in some_states(5)]

    def run() -> list[torch.Tensor]:
        tensor = buffer_utils.StagedWriteTensor((MAX_REQS, 16), torch.float32, torch.device("cpu"))
        for row, start, values in pieces:
            tensor.stage_write(row, start, values)
        tensor.apply_write()
        return [tensor.gpu.clone()]

    return run


def sampled_tokens(
    number: int,
    vocab: int,
    temperatures: list[float],
    dtype: torch.dtype = torch.float32,
    *,
    apply_temperature: bool = False,
    fp64: bool = False,
    banned: float = 0.0,
) -> Case:
    """Tokens under vLLM's noise; a part `banned` of each row is -inf, and at 1.0 every token."""
    logits = (normals(number, vocab) * 6).to(dtype)
    logits[torch.rand(number, vocab, generator=_generator) < banned] = LEAST
    states = some_states(number)
    values = torch.tensor((temperatures * MAX_REQS)[:MAX_REQS], dtype=torch.float32)
    seeds = integers(-(2**62), 2**62, MAX_REQS, dtype=torch.int64)
    pos = integers(0, 4000, number, dtype=torch.int64)
    return lambda: [
        gumbel.gumbel_sample(
            logits, states, values, seeds, pos, apply_temperature, False, use_fp64=fp64
        ).clone()
    ]


def rows_of_drafts(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The states of rows that belong to the same request or to different ones, and places in it."""
    states = torch.sort(torch.randint(0, MAX_REQS, (number,), generator=_generator)).values
    places = torch.zeros(number, dtype=torch.int32)
    for row in range(1, number):
        places[row] = places[row - 1] + 1 if states[row] == states[row - 1] else 0
    return states, places


def changed_logits(number: int) -> Case:
    """Penalties, temperature, min_p, biases, grammars, ranks."""
    vocab, logits = SMALL_VOCAB, normals(number, SMALL_VOCAB) * 6
    states, places = rows_of_drafts(number)
    ids = integers(0, vocab, number)
    ids[places > 2] = -1  # a draft that vLLM made invalid
    repetition = 0.5 + torch.rand(MAX_REQS, generator=_generator)
    frequency, presence = normals(MAX_REQS), normals(MAX_REQS)
    repetition[[0, 2]], frequency[[0, 1]], presence[0] = 1, 0, 0
    texts, prompts = integers(0, vocab, MAX_REQS, 1024), integers(300, 500, MAX_REQS)
    ends = prompts + integers(0, 200, MAX_REQS)
    temperatures = torch.tensor([0.0, 1.0, 0.7, 1.3] * 2)
    least_parts = torch.tensor([0.0, 0.1, 0.05, 0.5] * 2)
    num_allowed, allowed = (
        torch.tensor([0, 5, 0, 0, 0, 0, 0, 9]).int(),
        integers(0, vocab, MAX_REQS, 1024),
    )
    num_biases, biases = torch.tensor([0, 0, 4, 0, 9, 0, 0, 0]).int(), normals(MAX_REQS, 1024)
    biased = torch.stack([torch.randperm(vocab, generator=_generator)[:1024] for _ in biases]).int()
    num_stops, stops = torch.tensor([0, 2, 1, 3, 0, 1, 0, 9]).int(), integers(0, vocab, MAX_REQS, 128)
    min_lens, restores = integers(0, 100, MAX_REQS), torch.tensor([0, 1] * 4).int()
    stops[7, :9] = allowed[7, :9]  # nothing is left but tokens that stop: they are restored
    pos = integers(0, 100, number, dtype=torch.int64)
    bits = integers(-(2**31), 2**31 - 1, number, -(-vocab // 32))
    one_each = torch.arange(number + 1, dtype=torch.int32)

    def run() -> list[torch.Tensor]:
        mask = torch.zeros(MAX_REQS, -(-vocab // 32), dtype=torch.int32)
        counts = torch.zeros(MAX_REQS, vocab, dtype=torch.int32)
        penalties.bincount(torch.arange(MAX_REQS), texts, prompts, ends, mask, counts, int(ends.max()))
        penalised, tempered, cut, biased_rows, masked = (logits.clone() for _ in range(5))
        penalties.apply_penalties(
            penalised, states, ids, places, repetition, frequency, presence, mask, counts
        )
        gumbel.apply_temperature(tempered, states, temperatures)
        min_p.apply_min_p(cut, states, least_parts)
        logit_bias.apply_logit_bias(
            biased_rows,
            states,
            pos,
            *(num_allowed, allowed, num_biases, biased, biases),
            *(min_lens, num_stops, restores, stops),
            True,
        )
        structured_outputs._apply_grammar_bitmask_kernel[(number, -(-vocab // 8192))](
            *(masked, masked.stride(0), one_each[:number] * 5, one_each, bits, bits.stride(0), vocab),
            MASK_STRIDE=5,
            BLOCK_SIZE=8192,
        )
        ranks = torch.empty(number, dtype=torch.int64)
        logprob._ranks_kernel[(number,)](
            ranks, logits, logits.stride(0), ids.clamp(min=0).long(), vocab, BLOCK_SIZE=1024
        )
        return [mask, counts, penalised, tempered, cut, biased_rows, masked, ranks]

    return run


def log_probabilities(number: int) -> Case:
    logits = normals(number, SMALL_VOCAB) * 6
    ids = integers(0, SMALL_VOCAB, number, 5, dtype=torch.int64)
    return lambda: [logprob.compute_token_logprobs(logits, ids)]


def looked_up(number: int, shortest: int, longest: int) -> Case:
    """vLLM's n-gram speculator on texts of a few tokens, of all lengths down to none; one got no token."""
    length = 300
    texts = integers(0, 4, MAX_REQS, length)
    totals = torch.tensor([0, 1, 2, 3, 40, 255, 299, 300], dtype=torch.int32)
    sampled = torch.ones(number, dtype=torch.int32)
    sampled[0] = 0
    states, last = some_states(number), integers(0, 4, MAX_REQS, 1, dtype=torch.int64)
    config: Any = SimpleNamespace(
        speculative_config=SimpleNamespace(
            num_speculative_tokens=8, prompt_lookup_min=shortest, prompt_lookup_max=longest
        ),
        scheduler_config=SimpleNamespace(max_num_seqs=MAX_REQS),
        model_config=SimpleNamespace(max_model_len=length),
    )
    request_states: Any = SimpleNamespace(
        all_token_ids=SimpleNamespace(gpu=texts), total_len=SimpleNamespace(gpu=totals)
    )
    batch: Any = SimpleNamespace(num_reqs=number, idx_mapping=states)

    def run() -> list[torch.Tensor]:
        speculator = NgramGPUSpeculator(config, torch.device("cpu"), request_states)
        unused: Any = None
        return [speculator.propose(batch, *[unused] * 4, sampled, unused, last, *[unused] * 3).clone()]

    return run


def interpretable_masks() -> None:
    """Triton's interpreter refuses masks of integers, a GPU takes them: cast them, for this comparison."""
    from triton.runtime import interpreter

    def boolean(mask: Any) -> Any:
        if mask.data.dtype == bool:
            return mask
        return interpreter.TensorHandle(mask.data.astype(bool), interpreter.tl.int1)

    builder: Any = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    builder.create_masked_load = lambda self, at, mask, *rest: load(self, at, boolean(mask), *rest)
    builder.create_masked_store = lambda self, at, value, mask, *rest: store(
        self, at, value, boolean(mask), *rest
    )


def all_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {"staged write": staged_write(), "log-probabilities": log_probabilities(4)}
    for number, drafts, prefill in (
        *((1, False, False), (1, True, False), (1, False, True)),
        *((3, True, True), (8, True, False), (8, True, True), (8, False, True)),
    ):
        cases[f"step of {number}, drafts {drafts}, prefill {prefill}"] = a_step(number, drafts, prefill)
    for number, sizes in ((1, [128]), (8, [16]), (3, [16, 32])):
        cases[f"blocks of {number}, {sizes}"] = blocks(number, True, sizes)
    mixed = [0.0, 1.0, 0.7, 1.3]
    for dtype in (torch.float32, torch.bfloat16):
        for place in range(2):
            cases[f"tokens {dtype} {place}"] = sampled_tokens(4, SMALL_VOCAB, mixed, dtype)
        cases[f"tokens {dtype}, temperature"] = sampled_tokens(
            4, SMALL_VOCAB, [0.3, 1.0, 0.7, 2.0], dtype, apply_temperature=True
        )
        cases[f"tokens {dtype}, fp64"] = sampled_tokens(4, SMALL_VOCAB, [0.0, 1.0], dtype, fp64=True)
    for banned in (0.5, 0.99, 1.0):
        cases[f"tokens, {banned} banned"] = sampled_tokens(4, SMALL_VOCAB, mixed, banned=banned)
    cases["tokens of the whole vocabulary"] = sampled_tokens(1, VOCAB, [1.0])
    for number in (1, 8):
        cases[f"logits of {number}"] = changed_logits(number)
    for shortest, longest in ((1, 1), (2, 5)):
        cases[f"n-grams of {shortest} to {longest}"] = looked_up(MAX_REQS, shortest, longest)
    return cases


def cut_as_without_triton() -> bool:
    """Top-k and top-p, whose kernel the interpreter refuses: vLLM's dispatch against its path in torch."""
    from vllm.v1.sample.ops import topk_topp_sampler as ops

    logits = normals(4, SMALL_VOCAB) * 6
    k = torch.tensor([1, 50, SMALL_VOCAB, 7], dtype=torch.int32)
    p = torch.tensor([1.0, 0.9, 0.5, 0.1])
    return all(
        torch.equal(
            ops.apply_top_k_top_p(logits.clone(), *cut), ops.apply_top_k_top_p_pytorch(logits.clone(), *cut)
        )
        for cut in ((k, p), (k, None), (None, p))
    )


def counted(name: str, override: Callable[..., None], launched: set[str]) -> Callable[..., None]:
    @functools.wraps(override)
    def launch(*args: Any, **kwargs: Any) -> None:
        launched.add(name)
        override(*args, **kwargs)

    return launch


def is_same(case: str, want: torch.Tensor, got: torch.Tensor) -> bool:
    if case == "log-probabilities":
        return bool(((want - got).abs() <= SUM_TOLERANCE).all())
    return torch.equal(want, got)


def main() -> None:
    torch.set_num_threads(1)
    interpretable_masks()
    cases = all_cases()
    interpreted = {name: case() for name, case in cases.items()}
    launched: set[str] = set()
    for name, override in cpu_kernels.KERNELS.items():
        cpu_kernels.KERNELS[name] = counted(name, override, launched)
    cpu_kernels.register_cpu_kernels()
    overridden = {name: case() for name, case in cases.items()}
    differing = [
        name
        for name in cases
        if not all(is_same(name, *pair) for pair in zip(interpreted[name], overridden[name], strict=True))
    ]
    if not cut_as_without_triton():
        differing.append("top-k and top-p")
    json.dump({"differing": differing, "launched": sorted(launched)}, sys.stdout)


if __name__ == "__main__":
    main()
