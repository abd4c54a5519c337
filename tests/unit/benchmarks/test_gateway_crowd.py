"""Many clients at a real gateway on scripted generations, and the statistics of its memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from benchmarks.speed.gateway_crowd import CrowdPlan, Memory, memory_of, run_crowd
from benchmarks.gateway_host import hosted_gateway
from edge_agent.errors import CloudUnreachable
from edge_agent.fake_generator import FakeGenerator

PLAN = CrowdPlan(num_clients=6, at_once=2, rounds=2, num_tokens=8)


async def test_all_answers_are_counted(make_fake: Callable[[str], FakeGenerator]) -> None:
    """Every client gets its answers on the one connection it keeps; the warm-up is not among them."""
    generator = make_fake("hello world")
    sizes = itertools.count(100)
    started: list[int] = []
    async with hosted_gateway(generator) as url:
        result = await run_crowd(
            url.removesuffix("/v1"),
            None,
            PLAN,
            lambda: next(sizes),
            on_start=lambda: started.append(len(generator.records)),
        )
    assert (result.num_answers, result.num_connections, result.errors) == (12, 6, ())
    assert result.num_pieces >= 12
    assert started == [PLAN.at_once]
    assert len(generator.records) == PLAN.at_once + PLAN.num_answers
    assert result.memory == Memory(start=103, middle=109, end=115, most=115)


async def test_errors_are_kept(make_fake: Callable[[str], FakeGenerator]) -> None:
    """What the gateway cannot answer is counted and told."""
    generator = make_fake("hello world")

    def gone() -> None:
        generator.unreachable = CloudUnreachable("the server is gone")

    async with hosted_gateway(generator) as url:
        result = await run_crowd(url.removesuffix("/v1"), None, PLAN, lambda: 1, on_start=gone)
    assert len(result.errors) == result.num_answers == 12
    assert "the server is gone" in result.errors[0]


def test_memory_is_flat_by_its_second_half() -> None:
    """What the first half adds is caches; growth after it is growth."""
    assert memory_of([1, 2]) is None
    caches = memory_of([100, 150, 200, 200, 201])
    assert caches is not None
    assert caches.is_flat
    assert caches.growth == pytest.approx(0.005)
    leak = memory_of([100, 110, 120, 130, 125])
    assert leak == Memory(100, 120, 125, 130)
    assert not leak.is_flat
