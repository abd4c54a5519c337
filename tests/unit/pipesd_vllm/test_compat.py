"""Only the vLLM this plugin was built for is accepted, and its private names do what we take them for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipesd_vllm import compat
from pipesd_vllm.compat import UnsupportedVllmError, check_version, installed_version


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.32.0", "0.3"])
def test_other_versions_are_refused_by_name(version: str) -> None:
    """The refusal names both versions."""
    with pytest.raises(UnsupportedVllmError) as caught:
        check_version(version)
    assert version in str(caught.value)
    assert "0.32" in str(caught.value)


def test_the_installed_version_is_accepted() -> None:
    """The vLLM of this environment is in the supported range, patch releases included."""
    check_version(installed_version())
    check_version("0.32.1+cpu")


def test_every_name_stands_in_a_table() -> None:
    """In docs/vllm_surface.md no blank line cuts rows off their table's head."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "vllm_surface.md").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in page.split("\n\n") if block.lstrip().startswith("|")]
    assert blocks
    assert all(len(block) > 2 and block[1].startswith("|---") for block in blocks)


# -- names of vLLM's that have no test of their own elsewhere ----------------------------------


class Cache:
    """Has blocks for a request once enough parked sessions have lost theirs."""

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.asked: list[tuple[Any, ...]] = []

    def allocate_slots(self, *args: Any, **kwargs: Any) -> str | None:
        self.asked.append((*args, kwargs))
        return None if self.missing else "blocks"


def scheduler_with(cache: Cache, num_parked: int) -> tuple[Any, list[int]]:
    """A scheduler whose `allocate_slots` evicts, and what was parked."""
    parked = list(range(num_parked))

    def evict() -> bool:
        if not parked:
            return False
        parked.pop()
        cache.missing -= 1
        return True

    scheduler: Any = SimpleNamespace(kv_cache_manager=cache)
    compat.when_blocks_run_out(scheduler, evict)
    return scheduler, parked


@pytest.mark.parametrize(
    ("missing", "num_parked", "left", "blocks"),
    [(0, 3, 3, "blocks"), (2, 3, 1, "blocks"), (3, 3, 0, "blocks"), (4, 3, 0, None), (1, 0, 0, None)],
)
def test_parked_sessions_are_evicted_until_there_are_blocks(
    missing: int, num_parked: int, left: int, blocks: str | None
) -> None:
    """No more than needed; without success the request is refused as by vLLM."""
    cache = Cache(missing)
    scheduler, parked = scheduler_with(cache, num_parked)
    assert scheduler.kv_cache_manager.allocate_slots("request", 5, num_lookahead_tokens=2) == blocks
    assert len(parked) == left
    assert set(map(repr, cache.asked)) == {repr(("request", 5, {"num_lookahead_tokens": 2}))}


def test_blocks_are_given_out_where_they_are_asked_for() -> None:
    """vLLM's scheduler calls what we put there."""
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched.scheduler import Scheduler

    assert callable(KVCacheManager.allocate_slots)
    assert {"kv_cache_manager", "allocate_slots"} <= set(Scheduler.schedule.__code__.co_names)


def test_who_waits_for_a_seat() -> None:
    """Not a request that waits for something else, but one whose grammar is there and not yet noted."""
    from vllm.v1.request import RequestStatus

    grammar_status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    deferred: list[Any] = [
        SimpleNamespace(status=grammar_status, structured_output_request=SimpleNamespace(grammar=None)),
        SimpleNamespace(status=grammar_status, structured_output_request=SimpleNamespace(grammar="compiled")),
        SimpleNamespace(status=RequestStatus.WAITING_FOR_REMOTE_KVS),
        SimpleNamespace(status=RequestStatus.WAITING),
    ]
    scheduler: Any = SimpleNamespace(
        deferred_waiting=deferred,
        get_request_counts=lambda: (7, 2 + len(deferred)),
        _is_blocked_waiting_status=lambda status: status != RequestStatus.WAITING,
    )
    assert compat.count_ready_waiting(scheduler) == 2 + 2


def test_min_p_and_logit_bias_are_taken_beside_a_speculative_config() -> None:
    """vLLM's own check, with what it is given: refused before, taken after."""
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.input_processor import InputProcessor

    assert "speculative_config" in InputProcessor.__init__.__code__.co_names
    speculative: Any = SimpleNamespace(method="ngram_gpu")
    processor = SimpleNamespace(speculative_config=speculative)
    engine: Any = SimpleNamespace(input_processor=processor)
    for params in (SamplingParams(min_p=0.1), SamplingParams(logit_bias={1: 1.0})):
        with pytest.raises(VLLMValidationError, match="speculative"):
            params._validate_spec_decode(speculative)
        compat.allow_min_p_and_logit_bias(engine)
        params._validate_spec_decode(processor.speculative_config)
