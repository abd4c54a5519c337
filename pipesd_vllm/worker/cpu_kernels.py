"""Model Runner V2's Triton kernels in NumPy and torch, for vLLM's CPU build, where Triton is interpreted.

Interpreted, a step of one request takes a second; with these it takes what vLLM's C++ kernels of V1 took.
Results are bit for bit those of vLLM's kernels, but for the order of one sum (`topk_log_softmax`):
`tests/unit/pipesd_vllm/worker/test_cpu_kernels.py` compares each with the interpreter, which also tells when
an upgrade changes one. What is not here is interpreted: slow, right. Arguments stand in the kernels' order;
a launch's grid cannot be seen, so sizes come from the tensors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipesd_vllm.wire import noise

__all__ = ["KERNELS", "register_cpu_kernels"]

T = torch.Tensor
_NEVER: Final = float("-inf")
_F32 = np.float32
_MOST_NOISE: Final = np.float32(22.9)
"""No float32 noise is larger: that of the smallest draw is 22.874."""


@lru_cache(maxsize=256)
def _table(pointer: int, rows: int, width: int) -> NDArray[np.int32]:
    """The int32 table `[rows, width]` at an address; its tensor lives as long as the model runner."""
    cells = (ctypes.c_int32 * (rows * width)).from_address(pointer)
    return np.ctypeslib.as_array(cells).reshape(rows, width)


# -- the inputs of a step ------------------------------------------------------------------


def apply_write(
    output: T,
    stride: Any,
    indices: T,
    starts: T,
    contents: T,
    cu_lens: T,
    groups: T | None,
    BLOCK_SIZE: int,
    MULTI_GROUP: bool,
) -> None:
    """Write pieces of `contents` into rows of one tensor, or of the tables that `output` points to."""
    flat = None if MULTI_GROUP else output.view(-1).numpy()
    source, begin = contents.numpy(), 0
    for i, (row, start, end) in enumerate(
        zip(indices.tolist(), starts.tolist(), cu_lens.tolist(), strict=True)
    ):
        if flat is not None:
            at = row * stride + start
            flat[at : at + end - begin] = source[begin:end]
        elif groups is not None:
            group = int(groups[i])
            table = _table(int(output[group]), row + 1, int(stride[group]))
            table[row, start : start + end - begin] = source[begin:end]
        begin = end


def prepare_prefill_inputs(
    input_ids: T,
    next_tokens: T,
    next_stride: int,
    lookahead: int,
    idx: T,
    query_starts: T,
    all_ids: T,
    ids_stride: int,
    prefill_len: T,
    computed: T,
    BLOCK_SIZE: int,
    LOOKAHEAD_BLOCK: int,
) -> None:
    """The prompts' tokens of this step, and those that follow them."""
    starts, ids, following = query_starts.numpy(), all_ids.numpy(), next_tokens.numpy()
    for row, state in enumerate(idx.tolist()):
        length, done = int(prefill_len[state]), int(computed[state])
        if done >= length:
            continue
        start, end = int(starts[row]), int(starts[row + 1])
        after = done + end - start
        input_ids.numpy()[start:end] = ids[state, done:after]
        following[:lookahead, state] = 0
        known = ids[state, after : min(after + lookahead, length)]
        following[: len(known), state] = known


def prepare_pos_seq_lens(
    pos: T, seq_lens: T, idx: T, query_starts: T, computed: T, max_num_reqs: int, BLOCK_SIZE: int
) -> None:
    """Each token's position, each request's length after the step."""
    states, starts, lens = idx.numpy(), query_starts.numpy(), seq_lens.numpy()
    n = len(states)
    done = computed.numpy()[states]
    counts = starts[1 : n + 1] - starts[:n]
    lens[:n] = done + counts
    lens[n:] = 0
    pos.numpy()[starts[0] : starts[n]] = np.repeat(done - starts[:n], counts) + np.arange(
        starts[0], starts[n]
    )


def combine_sampled_and_draft_tokens(
    input_ids: T,
    idx: T,
    last_sampled: T,
    query_starts: T,
    seq_lens: T,
    prefill_len: T,
    draft_tokens: T,
    drafts_stride: int,
    cu_num_logits: T,
    logits_indices: T,
    BLOCK_SIZE: int,
    NUM_NEW_SAMPLED_TOKENS: int = 1,
) -> None:
    """The last sampled token and the drafts of each request, and which rows have logits."""
    states, starts, cu, ids = idx.numpy(), query_starts.numpy(), cu_num_logits.numpy(), input_ids.numpy()
    n, new = len(states), NUM_NEW_SAMPLED_TOKENS
    counts, ends = cu[1 : n + 1] - cu[:n], starts[1 : n + 1]
    firsts = ends - counts
    lens, prefill = seq_lens.numpy()[:n], prefill_len.numpy()[states]
    last, drafts = last_sampled.numpy().reshape(-1), draft_tokens.numpy()
    logits_indices.numpy()[cu[0] : cu[n]] = np.repeat(firsts - cu[:n], counts) + np.arange(cu[0], cu[n])
    if new > 0:
        decodes = (lens > prefill) & (lens - counts >= prefill)
        ids[firsts[decodes]] = last[states[decodes]]
    for row in np.flatnonzero((lens > prefill) & (counts > new)).tolist():
        count = int(counts[row]) - new
        ids[ends[row] - count : ends[row]] = drafts[states[row], :count]


def expand_idx_mapping(idx: T, expanded: T, local_pos: T, cu_num_logits: T, BLOCK_SIZE: int) -> None:
    """Each row's request and its place among that request's rows."""
    cu = cu_num_logits.numpy()
    counts = np.diff(cu)
    expanded.numpy()[cu[0] : cu[-1]] = np.repeat(idx.numpy(), counts)
    local_pos.numpy()[cu[0] : cu[-1]] = np.arange(cu[0], cu[-1]) - np.repeat(cu[:-1], counts)


def gather_block_tables(
    idx: T,
    sources: T,
    targets: T,
    strides: T,
    num_blocks: T,
    num_blocks_stride: int,
    num_reqs: int,
    BLOCK_SIZE: int,
) -> None:
    """The block tables in the order of the batch.

    Past a row's own blocks the cells mean nothing. Padded rows, which CUDA graphs alone have, are not zeroed.
    """
    states = idx.numpy()[:num_reqs]
    if not len(states):
        return
    for group, (source, target, width) in enumerate(
        zip(sources.tolist(), targets.tolist(), strides.tolist(), strict=True)
    ):
        widest = int(num_blocks[group].numpy()[states].max())
        rows = _table(source, num_blocks_stride, width)[states, :widest]
        _table(target, num_blocks_stride, width)[:num_reqs, :widest] = rows


def compute_slot_mappings(
    max_num_tokens: int,
    idx: T,
    query_starts: T,
    pos: T,
    tables: T,
    strides: T,
    block_sizes: T,
    enabled: T,
    dcp_sharded: T,
    slot_mappings: T,
    slots_stride: int,
    cp_rank: int,
    CP_SIZE: int,
    CP_INTERLEAVE: int,
    PAD_ID: int,
    TRITON_BLOCK_SIZE: int,
) -> None:
    """Where each token's keys and values go. Raises `NotImplementedError` under context parallelism."""
    if CP_SIZE != 1:
        raise NotImplementedError("context parallelism is refused (target_kind.py)")
    states, starts, slots = idx.numpy(), query_starts.numpy(), slot_mappings.numpy()
    n = len(states)
    first, last = int(starts[0]), int(starts[n])
    rows = np.repeat(states, starts[1 : n + 1] - starts[:n])
    positions = pos.numpy()[first:last]
    height = int(states.max()) + 1 if n else 0
    for group, (pointer, width, size, is_on) in enumerate(
        zip(tables.tolist(), strides.tolist(), block_sizes.tolist(), enabled.tolist(), strict=True)
    ):
        slots[group, last:max_num_tokens] = PAD_ID
        if not is_on or height <= 0:
            slots[group, first:last] = PAD_ID
            continue
        blocks = _table(pointer, height, width)[rows, positions // size].astype(np.int64)
        slots[group, first:last] = np.where(rows >= 0, blocks * size + positions % size, PAD_ID)


# -- after a step --------------------------------------------------------------------------


def get_num_sampled_and_rejected(
    num_sampled: T, num_rejected: T, seq_lens: T, cu_num_logits: T, idx: T, prefill_len: T
) -> None:
    """How many tokens each request got, and how many drafts it lost; none while its prompt is read."""
    sampled, states, cu = num_sampled.numpy(), idx.numpy(), cu_num_logits.numpy()
    n = len(states)
    reads = seq_lens.numpy()[:n] < prefill_len.numpy()[states]
    sampled[:n] = np.where(reads, 0, sampled[:n])
    num_rejected.numpy()[:n] = np.where(reads, 0, cu[1 : n + 1] - cu[:n] - sampled[:n])


def post_update(
    idx: T,
    computed: T,
    last_sampled: T,
    bin_counts: T | None,
    counts_stride: int,
    sampled_tokens: T,
    sampled_stride: int,
    num_sampled: T,
    num_rejected: T,
    query_starts: T | None,
    all_ids: T,
    ids_stride: int,
    total_len: T,
    num_warps: int = 1,
) -> None:
    """Append the sampled tokens to the requests' states."""
    done, last, total = computed.numpy(), last_sampled.numpy().reshape(-1), total_len.numpy()
    sampled, ids = sampled_tokens.numpy(), all_ids.numpy()
    counts = None if bin_counts is None else bin_counts.numpy()
    starts = None if query_starts is None else query_starts.tolist()
    rejected = num_rejected.tolist()
    for row, (state, count) in enumerate(zip(idx.tolist(), num_sampled.tolist(), strict=False)):
        if state < 0:
            continue
        if count > 0:
            at, tokens = int(total[state]), sampled[row, :count]
            ids[state, at : at + count] = tokens
            last[state] = tokens[-1]
            total[state] = at + count
            if counts is not None:
                np.add.at(counts[state], tokens, 1)
        query = 0 if starts is None else starts[row + 1] - starts[row]
        done[state] += query - rejected[row]


# -- sampling ------------------------------------------------------------------------------


def gumbel_sample(
    local_argmax: T,
    argmax_stride: int,
    local_max: T,
    max_stride: int,
    cache: T | None,
    cache_stride_0: int,
    cache_stride_1: int,
    column: Any,
    source: T | None,
    source_stride: int,
    logits: T,
    logits_stride: int,
    idx: T,
    seeds: T,
    pos: T,
    temperatures: T,
    vocab_size: int,
    BLOCK_SIZE: int,
    IS_DRAFTING: bool,
    APPLY_TEMPERATURE: bool,
    USE_FP64: bool,
    PER_TOKEN_COL: bool,
) -> None:
    """Each row's token, the argmax of its noisy logits, in the first of the blocks that are compared."""
    states = idx.numpy()
    is_sampled = (states >= 0) & (temperatures.numpy()[states] != 0)
    best, highest = local_argmax.numpy(), local_max.numpy()
    highest[:, 1:] = _NEVER
    highest[:, 0] = 0
    if cache is not None and source is not None:
        for row, state in enumerate(states.tolist()):
            if state >= 0:
                at = int(column[row] if PER_TOKEN_COL else column)
                cache[state, at, :vocab_size] = source[row, :vocab_size]
    if not is_sampled.all():
        best[:, 0] = logits[:, :vocab_size].argmax(dim=-1).numpy()
    for row in np.flatnonzero(is_sampled).tolist():
        state = int(states[row])
        x = logits[row, :vocab_size].float().numpy()
        if APPLY_TEMPERATURE:
            x = x / _F32(temperatures[state])
        seed, position = int(seeds[state]), int(pos[row]) + ((1 << 30) if IS_DRAFTING else 0)
        best[row, 0] = _noisy_argmax64(x, seed, position) if USE_FP64 else _noisy_argmax(x, seed, position)


def _noisy_argmax(x: NDArray[np.float32], seed: int, position: int) -> int:
    """The first argmax of `x` plus noise, which is drawn only where it can win.

    A token more than the largest noise below a score that is reached already is out of the race.
    """
    leader = int(x.argmax())
    reached = x[leader] + noise.gumbel(seed, position, [leader])[0]
    alive = np.flatnonzero(x >= reached - _MOST_NOISE)
    if not len(alive):  # nothing but -inf
        return leader
    return int(alive[(x[alive] + noise.gumbel(seed, position, alive)).argmax()])


def _noisy_argmax64(x: NDArray[np.float32], seed: int, position: int) -> int:
    return int((x.astype(np.float64) + noise.gumbel(seed, position, np.arange(len(x)), fp64=True)).argmax())


def temperature(
    logits: T, logits_stride: int, idx: T, temperatures: T, vocab_size: int, BLOCK_SIZE: int
) -> None:
    """Divide each row of float32 `logits` by its temperature."""
    for row, value in enumerate(temperatures[idx].tolist()):
        if value not in (0.0, 1.0):
            logits[row].numpy()[:] /= _F32(value)


def min_p(logits: T, logits_stride: int, idx: T, values: T, vocab_size: int, BLOCK_SIZE: int) -> None:
    """Forbid tokens less likely than a part of the likeliest one."""
    for row, value in enumerate(values.numpy()[idx.numpy()]):
        if value != 0:
            threshold = float(_F32(float(logits[row].max())) + np.log(value))
            logits[row].masked_fill_(logits[row] < threshold, _NEVER)


def penalties(
    logits: T,
    logits_stride: int,
    idx: T,
    token_ids: T,
    local_pos: T,
    repetition: T,
    frequency: T,
    presence: T,
    prompt_mask: T,
    mask_stride: int,
    bin_counts: T,
    counts_stride: int,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Penalise tokens that occurred; the drafts before a row count as generated."""
    ids, places, values = token_ids.numpy(), local_pos.tolist(), logits.numpy()
    repeat, often, present = repetition.numpy(), frequency.numpy(), presence.numpy()
    counts, mask = bin_counts.numpy(), prompt_mask.numpy()
    for row, state in enumerate(idx.tolist()):
        if repeat[state] == 1 and often[state] == 0 and present[state] == 0:
            continue
        seen = np.flatnonzero(counts[state])
        drafts = ids[row - places[row] + 1 : row + 1] if places[row] else ids[:0]
        drafts, times = np.unique(drafts[(drafts >= 0) & (drafts < vocab_size)], return_counts=True)
        seen = np.union1d(seen, drafts).astype(np.int64)
        number = counts[state, seen]
        number[np.searchsorted(seen, drafts)] += times.astype(number.dtype)
        line = values[row]
        if repeat[state] != 1:
            occurred = _bits(mask[state], vocab_size).astype(bool)
            occurred[seen] = True
            hit = np.flatnonzero(occurred)
            line[hit] *= np.where(line[hit] > 0, _F32(1) / repeat[state], repeat[state])
        line[seen] = line[seen] - often[state] * number.astype(_F32) - present[state]


def _bits(words: NDArray[Any], count: int) -> NDArray[np.uint8]:
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")[:count]


def bincount(
    idx: T,
    all_ids: T,
    ids_stride: int,
    prompt_len: T,
    prefill_len: T,
    prompt_mask: T,
    mask_stride: int,
    bin_counts: T,
    counts_stride: int,
    BLOCK_SIZE: int,
) -> None:
    """Note a new request's tokens for its penalties: the prompt's as bits, generated ones by number."""
    ids, mask, counts = all_ids.numpy(), prompt_mask.numpy(), bin_counts.numpy()
    for state in idx.tolist():
        prompt, end = int(prompt_len[state]), int(prefill_len[state])
        tokens = ids[state, :prompt]
        bits = (np.uint32(1) << (tokens % 32).astype(np.uint32)).view(np.int32)
        np.bitwise_or.at(mask[state], tokens // 32, bits)
        np.add.at(counts[state], ids[state, prompt:end], 1)


def bias(
    logits: T,
    logits_stride: int,
    vocab_size: int,
    idx: T,
    num_allowed: T,
    allowed: T,
    allowed_stride: int,
    num_bias: T,
    bias_ids: T,
    bias_ids_stride: int,
    values: T,
    values_stride: int,
    pos: T,
    min_lens: T,
    num_stop: T,
    restore: T,
    stop_ids: T,
    stop_stride: int,
    BLOCK_SIZE: int,
    LOGITS_BLOCK_SIZE: int,
    CHECK_ALL_MASKED_ROWS: bool,
) -> None:
    """Allowed tokens, biases, and no stop token before a minimal length."""
    for row, state in enumerate(idx.tolist()):
        line = logits[row]
        if count := int(num_allowed[state]):
            kept_ids = allowed[state, :count].long()
            kept = line[kept_ids]
            line.fill_(_NEVER)
            line[kept_ids] = kept
        if count := int(num_bias[state]):
            line[bias_ids[state, :count].long()] += values[state, :count]
        count = int(num_stop[state])
        if count and int(pos[row]) + 1 < int(min_lens[state]):
            stops = stop_ids[state, :count].long()
            held = line[stops]
            line[stops] = _NEVER
            if CHECK_ALL_MASKED_ROWS and int(restore[state]) and float(line.max()) == _NEVER:
                is_finite = (held > _NEVER) & (held < float("inf"))
                line[stops[is_finite]] = held[is_finite]


def topk_topp(
    logits: T, buffer: T, table_a: T, table_b: T, k: T, p: T, mask_value: float, num_sm: int
) -> None:
    """vLLM's own cut of the distribution without Triton, in place."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    apply_top_k_top_p_pytorch(logits, k, p, allow_cpu_sync=True)


def grammar_bitmask(
    logits: T,
    logits_stride: int,
    indices: T,
    cu_num_logits: T,
    bitmask: T,
    bitmask_stride: int,
    vocab_size: int,
    MASK_STRIDE: int,
    BLOCK_SIZE: int,
) -> None:
    """Forbid what a grammar does not allow in a row."""
    cu, words = cu_num_logits.tolist(), bitmask.numpy()
    for i, mapped in enumerate(indices.tolist()):
        request, place = divmod(mapped, MASK_STRIDE)
        if place < cu[request + 1] - cu[request]:
            is_banned = torch.from_numpy(_bits(words[i], vocab_size) == 0)
            logits[cu[request] + place, : is_banned.shape[0]].masked_fill_(is_banned, _NEVER)


# -- log-probabilities and drafts ------------------------------------------------------------


def topk_log_softmax(
    output: T,
    logits: T,
    logits_stride: int,
    ids: T,
    ids_stride: int,
    topk: int,
    vocab_size: int,
    BLOCK_SIZE: int,
    TOPK_BLOCK_SIZE: int,
) -> None:
    """The log-probabilities of some tokens a row."""
    x = logits[:, :vocab_size].float()
    highest = x.max(dim=-1, keepdim=True).values
    total = (x - highest).exp().sum(dim=-1, keepdim=True).log()
    output.copy_(x.gather(1, ids[:, :topk].long()) - highest - total)


def ranks(output: T, logits: T, logits_stride: int, token_ids: T, vocab_size: int, BLOCK_SIZE: int) -> None:
    """How many tokens of a row are at least as likely as a given one."""
    x = logits[:, :vocab_size]
    output.copy_((x >= x.gather(1, token_ids.view(-1, 1).long())).sum(dim=-1))


def gather_draft_sampled(
    output: T,
    output_pos: T,
    input_ids: T,
    positions: T,
    logits_indices: T,
    idx: T,
    local_pos: T,
    prefill_len: T,
    num_logits: int,
    BLOCK_SIZE: int,
) -> None:
    """Each row's input token and position; -1 for a draft within the prompt, which is none."""
    rows, places = logits_indices.numpy(), local_pos.numpy()
    pos = positions.numpy()[rows]
    is_none = (places > 0) & (pos - places < prefill_len.numpy()[idx.numpy()])
    output.numpy()[:] = np.where(is_none, -1, input_ids.numpy()[rows])
    output_pos.numpy()[:] = pos


def flatten_sampled(
    flat: T, sampled: T, sampled_stride: int, num_sampled: T, cu_num_logits: T, num_warps: int = 1
) -> None:
    """The requests' sampled tokens, row by row."""
    starts = cu_num_logits.tolist()
    for row, count in enumerate(num_sampled.tolist()):
        flat[starts[row] : starts[row] + count] = sampled[row, :count]


def ngram_scan(
    token_ids: T,
    ids_stride: int,
    idx: T,
    total_len: T,
    num_sampled: T,
    scratch: T,
    scratch_stride: int,
    max_model_len: int,
    MIN_N: int,
    MAX_N: int,
    MAX_N_PO2: int,
    BLOCK_L: int,
    num_warps: int = 4,
    num_stages: int = 2,
) -> None:
    """Where the longest n-gram that ends a text stood last: `n * (L + 1) + start + 1`, or 0 for nowhere.

    vLLM's `ngram_finalize` takes the best of blocks: it is in the first.
    """
    ids, best = token_ids.numpy(), scratch.numpy()
    for row, state in enumerate(idx.tolist()):
        best[row] = 0
        length = int(total_len[state])
        if int(num_sampled[row]) > 0 and length >= MIN_N:
            best[row, 0] = _latest_ngram(ids[state, :length], MIN_N, MAX_N, max_model_len)


def _latest_ngram(text: NDArray[np.int32], least: int, most: int, max_model_len: int) -> int:
    for n in range(min(most, len(text) - 1), least - 1, -1):
        windows = np.lib.stride_tricks.sliding_window_view(text[:-1], n)
        found = np.flatnonzero((windows == text[-n:]).all(axis=1))
        if len(found):
            return n * (max_model_len + 1) + int(found[-1]) + 1
    return 0


def ngram_finalize(
    token_ids: T,
    ids_stride: int,
    idx: T,
    total_len: T,
    num_sampled: T,
    last_sampled: T,
    scratch: T,
    scratch_stride: int,
    drafts: T,
    max_model_len: int,
    num_blocks: int,
    K: int,
    K_PO2: int,
    N_BLOCKS_PO2: int,
    num_warps: int = 2,
    num_stages: int = 1,
) -> None:
    """What followed the n-gram found by `ngram_scan`, filled up with the last token."""
    ids, proposed = token_ids.numpy(), drafts.numpy()
    for row, state in enumerate(idx.tolist()):
        proposed[row, :K] = int(last_sampled[state])
        score = int(scratch[row].max())
        if score > 0 and int(num_sampled[row]) > 0:
            n, start = divmod(score - 1, max_model_len + 1)
            following = ids[state, start + n : min(start + n + K, int(total_len[state]))]
            proposed[row, : len(following)] = following


_GPU: Final = "vllm.v1.worker.gpu."
KERNELS: Final[dict[str, Callable[..., None]]] = {
    _GPU + "buffer_utils._apply_write_kernel": apply_write,
    _GPU + "input_batch._prepare_prefill_inputs_kernel": prepare_prefill_inputs,
    _GPU + "input_batch._prepare_pos_seq_lens_kernel": prepare_pos_seq_lens,
    _GPU + "input_batch._combine_sampled_and_draft_tokens_kernel": combine_sampled_and_draft_tokens,
    _GPU + "input_batch._expand_idx_mapping_kernel": expand_idx_mapping,
    _GPU + "input_batch._get_num_sampled_and_rejected_kernel": get_num_sampled_and_rejected,
    _GPU + "input_batch._post_update_kernel": post_update,
    _GPU + "block_table._gather_block_tables_kernel": gather_block_tables,
    _GPU + "block_table._compute_slot_mappings_kernel": compute_slot_mappings,
    _GPU + "sample.gumbel._gumbel_sample_kernel": gumbel_sample,
    _GPU + "sample.gumbel._temperature_kernel": temperature,
    _GPU + "sample.min_p._min_p_kernel": min_p,
    _GPU + "sample.penalties._penalties_kernel": penalties,
    _GPU + "sample.penalties._bincount_kernel": bincount,
    _GPU + "sample.logit_bias._bias_kernel": bias,
    _GPU + "sample.logprob._topk_log_softmax_kernel": topk_log_softmax,
    _GPU + "sample.logprob._ranks_kernel": ranks,
    _GPU + "structured_outputs._apply_grammar_bitmask_kernel": grammar_bitmask,
    _GPU + "spec_decode.rejection_sampler._gather_draft_sampled_kernel": gather_draft_sampled,
    _GPU + "spec_decode.rejection_sampler._flatten_sampled_kernel": flatten_sampled,
    _GPU + "spec_decode.ngram.speculator._ngram_scan_kernel": ngram_scan,
    _GPU + "spec_decode.ngram.speculator._ngram_finalize_kernel": ngram_finalize,
    "vllm.v1.sample.ops.topk_topp_triton._topk_topp": topk_topp,
}
"""vLLM's kernels by their qualified names, and what stands in for each."""


def register_cpu_kernels() -> None:
    """Put `KERNELS` in their places, through vLLM's own registry."""
    from vllm.triton_utils.dispatcher import register_kernels

    register_kernels(KERNELS)
