"""CPU of single parts of the edge, without model or network: the control plane, a pick, lookup, the tuner.

Times of the deciding thread are its own CPU time: other work on the machine does not count.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median
from typing import Final

import numpy as np

from benchmarks.harness.rivals import DEFAULT_PARAMETERS
from edge_agent.api import Sampling
from edge_agent.control import ChainView, CommitOutcome, Decision, EnvironmentMonitor, make_policy
from edge_agent.control.batch_schedule import BatchScheduler, plan_batches
from edge_agent.control.tuning.background import NUM_FIRST
from edge_agent.control.tuning.gp_process import GpProcess
from edge_agent.control.tuning.search import PAPER_THRESHOLDS, Evaluation, SearchSpace, SobolProposer
from edge_agent.control.tuning.tuner import TrialSettings, Tuner, TunerSettings
from edge_agent.drafting.lookup import LookupRates, LookupSource
from edge_agent.sampling import GreedyPicker, SampledPicker, TokenPicker
from pipesd_vllm.wire import common_prefix_length

__all__ = ["control_us", "lookup_us", "pick_ms", "tuner_lines"]

Clock = Callable[[], float]

PLAN_TOKENS: Final = 20
_LINKS_S: Final = {
    # (alpha, beta a token, gamma a token)
    "persistent stream": (1e-4, 2e-6, 0.007),
    "whole distributions over 20 Mbit/s": (0.025, 0.116, 0.043),
    "as slow as drafting": (1e-6, 0.0071, 0.007),
}
GAMMA_S: Final = 0.007
"""What a draft step costs in the comparison."""


def control_us(
    *, num_tokens: int = 2000, repeats: int = 5, clock: Clock = time.thread_time
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Medians in us: a plan of `PLAN_TOKENS` by link; all decisions for a drafted token by policy."""

    def plans_s(costs: tuple[float, float, float]) -> float:
        start_s = clock()
        for _ in range(num_tokens // 10):
            plan_batches(PLAN_TOKENS, *costs)
        return (clock() - start_s) / (num_tokens // 10)

    def us(measure: Callable[[], float]) -> float:
        return median(measure() for _ in range(repeats)) * 1e6

    plans = {name: us(lambda costs=costs: plans_s(costs)) for name, costs in _LINKS_S.items()}  # type: ignore[misc]
    policies = {
        name: us(lambda name=name: _decisions_s(name, num_tokens, clock))  # type: ignore[misc]
        for name in ("pipesd", "adaptive")
    }
    return plans, policies


def _decisions_s(name: str, num_tokens: int, clock: Clock) -> float:
    """Of a token: policy, scheduler and monitor are called as often as a session does.

    The link changes by half every 50 tokens, so that plans are made again.
    """
    rng = random.Random(0)
    draws = [(rng.betavariate(5, 1), rng.uniform(0.9, 1.1), rng.random()) for _ in range(num_tokens)]
    monitor = EnvironmentMonitor()
    policy = make_policy(name, DEFAULT_PARAMETERS, BatchScheduler(monitor.link), costs=monitor.snapshot)
    num_drafted = num_sent = 0
    idle = ChainView(0, 0, awaiting_commit=False)
    start_s = clock()
    for i, (probability, jitter, luck) in enumerate(draws):
        slowness = 1.5 if i // 50 % 2 else 1.0
        num_drafted += 1
        num_unsent = num_drafted - num_sent
        monitor.on_draft_step(GAMMA_S * jitter * slowness)
        decision = policy.on_draft(probability, ChainView(num_drafted, num_unsent, False))
        if decision is Decision.KEEP:
            continue
        num_sent = num_drafted
        monitor.on_upload(num_unsent, 0.0001 + 0.002 * slowness * num_unsent)
        if decision is Decision.VERIFY:  # the server keeps as many as luck has it
            num_accepted = int(luck * (num_drafted + 1))
            monitor.on_verify_round(num_drafted, 0.055 + 0.002 * slowness * luck, 0.001, 0.020)
            monitor.on_acceptance(num_drafted, num_accepted)
            rejected = num_accepted < num_drafted
            policy.on_commit(CommitOutcome((0,) * (num_accepted + 1), num_drafted, num_accepted, rejected))
            policy.after_commit(idle)
            policy.ahead(idle)
            monitor.snapshot()
            num_drafted = num_sent = 0
    return (clock() - start_s) / num_tokens


NUM_TOKENS: Final = 49_152
_PROMPT: Final = range(200)
_SAMPLINGS: Final = {
    "T=1": Sampling(512, 1.0, seed=7),
    "T=1 top_p=0.9": Sampling(512, 1.0, 0.9, seed=7),
    "T=1 top_k=40 top_p=0.9": Sampling(512, 1.0, 0.9, seed=7, top_k=40),
    "T=1 min_p=0.05": Sampling(512, 1.0, seed=7, min_p=0.05),
    "T=0.7 top_p=0.9, all penalties": Sampling(
        512, 0.7, 0.9, seed=7, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1
    ),
}


def pick_ms(
    *, num_picks: int = 100, repeats: int = 5, clock: Clock = time.thread_time
) -> Mapping[str, float]:
    """Median ms of picking one of `NUM_TOKENS` tokens: "greedy", then coupled by parameters."""
    rng = np.random.default_rng(0)  # a broad body and a few tokens far ahead, as of a language model
    logits = [
        (rng.normal(0.0, 2.5, NUM_TOKENS) + rng.pareto(2.5, NUM_TOKENS)).astype(np.float32) for _ in range(10)
    ] * (num_picks // 10)

    def ms(make: Callable[[], TokenPicker]) -> float:
        times_ms = []
        for _ in range(repeats):
            picker, tokens = make(), list(_PROMPT)
            picker.pick(logits[0], tokens)
            start_s = clock()
            for row in logits:
                tokens.append(picker.pick(row, tokens).token_id)
            times_ms.append((clock() - start_s) * 1e3 / len(logits))
        return median(times_ms)

    coupled = {name: ms(lambda s=s: SampledPicker(s, len(_PROMPT))) for name, s in _SAMPLINGS.items()}  # type: ignore[misc]
    return {"greedy": ms(GreedyPicker), **coupled}


LOOKUP_TOKENS: Final = 4096
"""Committed after the prompt."""


def lookup_us(
    prompt_lengths: Sequence[int], *, clock: Clock = time.thread_time
) -> Mapping[str, tuple[float, float]]:
    """By prompt: us of CPU to read a token of it, and to draft and follow a token of the answer.

    The texts are Zipf's, half of them copied in pieces of 40 tokens from what stands before; one more repeats
    a single token, for which the most places match. A run of drafts is proposed after each pass.
    """
    texts = {
        f"{length} tokens": _half_copied(random.Random(0), length + LOOKUP_TOKENS)
        for length in prompt_lengths
    }
    texts["one token repeated"] = [7] * 2 * LOOKUP_TOKENS
    found = {}
    for name, text in texts.items():
        prompt, answer = text[:-LOOKUP_TOKENS], text[-LOOKUP_TOKENS:]
        start_s = clock()
        lookup = LookupSource(prompt, LookupRates())
        read_s = clock() - start_s
        start_s = clock()
        while answer:
            run = [draft.token_id for draft in lookup.propose()]
            lookup.extend(run)
            num_committed = common_prefix_length(run, answer) + 1
            lookup.follow(answer[:num_committed])
            del answer[:num_committed]
        found[name] = read_s / len(prompt) * 1e6, (clock() - start_s) / LOOKUP_TOKENS * 1e6
    return found


def _half_copied(rng: random.Random, num_tokens: int) -> list[int]:
    text: list[int] = []
    while len(text) < num_tokens:
        start = rng.randrange(max(1, len(text) - 40))
        text += text[start : start + 40]
        text += [int(rng.paretovariate(0.7)) % NUM_TOKENS for _ in range(40)]
    return text[:num_tokens]


_SPACE: Final = SearchSpace(DEFAULT_PARAMETERS)
_NUM_DIMENSIONS: Final = len(_SPACE.dimensions)
_NUM_EVALUATIONS: Final = TunerSettings().num_evaluations
_TPT_MS: Final = 20.0
_TOKENS_PER_COMMIT: Final = 4


def tuner_lines() -> list[str]:
    """What the autotuner costs, as text. Raises `GpProcessError` without BoTorch."""
    _, start_s, _ = _search([NUM_FIRST])
    suggestions_s, search_s, memory_mb = _search(range(NUM_FIRST, _NUM_EVALUATIONS + 1))
    shown = ", ".join(f"{n}: {1e3 * s:.0f}" for n, s in list(suggestions_s.items())[1:])
    trials_s = _NUM_EVALUATIONS * TrialSettings().min_num_tokens * _TPT_MS / 1e3
    observe_s = _observe_s()
    share = mean(observe_s) / (_TOKENS_PER_COMMIT * _TPT_MS / 1e3)
    return [
        f"fit and acquisition, wall ms by number of points: {shown}",
        f"model's process: {memory_mb:.0f} MB, one thread, low priority, ends with the search",
        f"  to start and answer once: {start_s:.1f} s of one core; a search: {search_s:.1f} s",
        *(
            f"  = {search_s / use_s:.2%} of one core over {use}, {use_s:.0f} s at {_TPT_MS:g} ms a token"
            for use, use_s in (("the shortest search", trials_s), ("ten minutes of use", 600.0))
        ),
        f"observe, a commit: mean {1e6 * mean(observe_s):.0f} us, worst {1e3 * max(observe_s):.2f} ms",
        f"  = {share:.3%} of wall time at {_TPT_MS:g} ms a token, {_TOKENS_PER_COMMIT} tokens a commit",
    ]


def _search(numbers: Sequence[int]) -> tuple[Mapping[int, float], float, float]:
    """Ask a fresh process for one suggestion at each of `numbers` of evaluations.

    Wall seconds of each (the first includes the start), CPU seconds and memory (MB) of the process.
    """
    proposer = SobolProposer(_NUM_DIMENSIONS, 1)  # points as a search has them: spread out, 20 to 60 ms
    seen: list[Evaluation] = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = GpProcess(_NUM_DIMENSIONS, 0)
    times_s: dict[int, float] = {}
    try:
        for number in numbers:
            while len(seen) < number:
                point = proposer.suggest(seen).point
                seen.append(Evaluation(point, 20.0 + 40.0 * sum((x - 0.4) ** 2 for x in point), 64, 0.08))
            started_s = time.perf_counter()
            process.suggest(seen)
            times_s[number] = time.perf_counter() - started_s
    finally:
        process.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return times_s, cpu_s, after.ru_maxrss / 1024


def _observe_s(num_commits: int = 20_000) -> list[float]:
    """Seconds of each `Tuner.observe` over a search and the use of its result, model answers aside."""
    start = (_SPACE.base, _SPACE.with_thresholds(*PAPER_THRESHOLDS))
    tuner = Tuner(_SPACE, start, SobolProposer(_NUM_DIMENSIONS, 0), TunerSettings())
    times_s = []
    for i in range(num_commits):
        elapsed_s = _TOKENS_PER_COMMIT * _TPT_MS / 1e3 * (0.7 + 0.6 * (i % 2))
        under = tuner.parameters
        started_s = time.perf_counter()
        tuner.observe(_TOKENS_PER_COMMIT, elapsed_s, 1, under)
        times_s.append(time.perf_counter() - started_s)
    return times_s
