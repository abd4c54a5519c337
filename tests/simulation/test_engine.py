"""The simulated engine: vLLM's client and scheduler, a KV cache with content, times as the plan says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from benchmarks.sim.engine import SimEngine
from benchmarks.sim.log import EventLog
from benchmarks.sim.loop import VirtualLoop
from benchmarks.sim.models import reference
from benchmarks.sim.plan import ServerPlan, StepCost
from pipesd_vllm.wire import Sampling

PROMPT = list(range(300, 332))
NUM_TOKENS = 40


def simulate(body: Callable[[SimEngine], Awaitable[None]], plan: ServerPlan) -> None:
    loop = VirtualLoop()

    async def main() -> None:
        engine = SimEngine(plan, plan.target, EventLog(loop.time))
        try:
            await body(engine)
            assert engine.failure() is None
        finally:
            engine.stop()

    loop.run_until_complete(main())
    loop.close()
    assert loop.errors == []


async def answer(engine: SimEngine, prompt: list[int], name: str) -> list[int]:
    """A plain request, as vLLM's own API makes it."""
    params = SamplingParams(
        temperature=0.0,
        max_tokens=NUM_TOKENS,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    tokens: list[int] = []
    async for output in engine.generate(tokens_input(prompt), params, name):
        tokens += output.outputs[0].token_ids
    return tokens


def expected(prompt: list[int], target: str = "target") -> list[int]:
    return reference(target, prompt, Sampling(max_tokens=NUM_TOKENS, ignore_eos=True))


def test_requests_get_the_targets_text_in_the_plans_time() -> None:
    """41 IPC-free steps: the prompt's with 32 tokens, then one token each."""

    async def body(engine: SimEngine) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await answer(engine, PROMPT, "a") == expected(PROMPT)
        record = engine.process.record
        assert (record.steps, record.passes) == (NUM_TOKENS, NUM_TOKENS)
        context = sum(range(32, 32 + NUM_TOKENS))
        wanted_s = NUM_TOKENS * 0.01 + 31 * 0.001 + context * 1e-5
        assert loop.time() - began_s == pytest.approx(wanted_s, abs=0.002)
        assert engine.num_requests == engine.process.num_used_blocks == 0

    simulate(body, ServerPlan(step=StepCost(base_s=0.01, token_s=0.001, context_s=1e-5)))


def test_too_few_blocks_preempt_and_change_no_text() -> None:
    """What was taken away is computed again, into other blocks."""

    async def body(engine: SimEngine) -> None:
        prompts = [PROMPT[i:] + PROMPT[:i] for i in range(4)]
        answers = await asyncio.gather(*(answer(engine, p, str(i)) for i, p in enumerate(prompts)))
        assert answers == [expected(prompt) for prompt in prompts]
        assert engine.process.record.preemptions > 0

    simulate(body, ServerPlan(num_blocks=14))


def test_a_wrong_kv_entry_changes_the_text() -> None:
    """The text depends on every entry before it, so an error in any of them shows."""

    async def body(engine: SimEngine) -> None:
        runner = engine.process._runner
        asking = asyncio.create_task(answer(engine, PROMPT, "a"))
        await asyncio.sleep(0.5)
        block = runner._rows[next(iter(runner._rows))].blocks[0]
        runner._kv[block, 3] ^= 1
        tokens = await asking
        assert tokens[:2] == expected(PROMPT)[:2]
        assert tokens != expected(PROMPT)

    simulate(body, ServerPlan())


def test_cached_prefixes_are_not_computed_again() -> None:
    """The second request finds both of its whole blocks, and computes a single token before it decodes."""

    async def body(engine: SimEngine) -> None:
        await answer(engine, PROMPT, "a")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await answer(engine, [*PROMPT, 500], "b") == expected([*PROMPT, 500])
        assert loop.time() - began_s == pytest.approx(NUM_TOKENS * 0.01, abs=0.01)

    simulate(body, ServerPlan(step=StepCost(base_s=0.01, token_s=0.1)))


def test_a_stalled_step_ends_when_the_stall_does() -> None:
    """And nothing else happens."""

    async def body(engine: SimEngine) -> None:
        loop = asyncio.get_running_loop()
        engine.process.stalls.append((loop.time() + 0.5, loop.time() + 9.0))
        began_s = loop.time()
        assert await answer(engine, PROMPT, "a") == expected(PROMPT)
        assert 9.0 + 1.0 < loop.time() - began_s < 9.0 + 3.0

    simulate(body, ServerPlan())


def test_a_dead_engine_fails_its_requests() -> None:
    """Those under way and those to come, with vLLM's own error."""

    async def body(engine: SimEngine) -> None:
        asking = asyncio.create_task(answer(engine, PROMPT, "a"))
        await asyncio.sleep(0.5)
        engine.die()
        with pytest.raises(EngineDeadError):
            await asking
        with pytest.raises(EngineDeadError):
            await answer(engine, PROMPT, "b")

    simulate(body, ServerPlan())


def test_an_emptied_engine_ends_its_requests() -> None:
    """With an abort that the client sees, and takes new ones."""

    async def body(engine: SimEngine) -> None:
        asking = asyncio.create_task(answer(engine, PROMPT, "a"))
        await asyncio.sleep(0.5)
        engine.abort_all()
        tokens = await asking
        assert tokens == expected(PROMPT)[: len(tokens)] != expected(PROMPT)
        assert await answer(engine, PROMPT, "b") == expected(PROMPT)

    simulate(body, ServerPlan())


def test_two_targets_have_two_texts() -> None:
    """By name alone."""

    async def body(engine: SimEngine) -> None:
        assert await answer(engine, PROMPT, "a") == expected(PROMPT, "other") != expected(PROMPT)

    simulate(body, ServerPlan(target="other"))
