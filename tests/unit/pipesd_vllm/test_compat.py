"""Only a vLLM that this plugin was built for is accepted; what its releases do differently works in each."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from vllm.exceptions import GenerationError, MaxQueuedTokensError, RetryableRequestError
from vllm.outputs import RequestError

from pipesd_vllm import compat
from pipesd_vllm.compat import (
    CPU_SUPPORTED,
    SUPPORTED,
    UnsupportedVllmError,
    check_version,
    installed_version,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0", "1.32.0", "0.3"])
def test_other_versions_are_refused_by_name(version: str) -> None:
    """The refusal names the installed version and those that it could be."""
    with pytest.raises(UnsupportedVllmError, match=r"supports vLLM 0\.32\.x and 0\.33\.x") as caught:
        check_version(version)
    assert version in str(caught.value)


def test_the_installed_version_is_accepted() -> None:
    """The vLLM of this environment is in the supported range, patch releases included; so is 0.33."""
    check_version(installed_version())
    check_version(installed_version(), CPU_SUPPORTED)
    check_version("0.32.1+cpu")
    check_version("0.33.0")


def test_a_cpu_build_of_033_is_refused() -> None:
    """Its kernels are others than ours stand in for."""
    with pytest.raises(UnsupportedVllmError, match=r"vLLM's CPU build 0\.32\.x, but vLLM 0\.33\.0"):
        check_version("0.33.0", CPU_SUPPORTED)


def test_the_extras_allow_what_is_supported() -> None:
    """`pipesd[cloud]` takes the supported lines and no other, `pipesd[cloud-cpu]` those of the CPU build."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extra, lines in (("cloud", SUPPORTED), ("cloud-cpu", CPU_SUPPORTED)):
        wanted = Requirement(extras[extra][0]).specifier
        taken = [line for minor in range(50) if (line := f"0.{minor}") and wanted.contains(f"{line}.0")]
        assert taken == list(lines)


def test_a_request_fails_in_both_releases() -> None:
    """0.32 keeps a set of the requests to fail, 0.33 a dictionary with what their clients are told."""
    of_032: Any = SimpleNamespace(grammar_compile_error_reqs=set())
    of_033: Any = SimpleNamespace(grammar_compile_error_reqs={})
    for scheduler in (of_032, of_033):
        compat.fail_request(scheduler, "a")
    assert of_032.grammar_compile_error_reqs == {"a"}
    error = of_033.grammar_compile_error_reqs["a"]
    assert isinstance(error, RequestError)
    assert (error.message, error.retryable) == (compat.GIVEN_UP, False)
    assert error.code != "validation_error"  # which 0.33 would tell the client as its own fault


@pytest.mark.parametrize(
    ("error", "is_overload"),
    [
        (MaxQueuedTokensError(), True),
        (RetryableRequestError(), True),
        (GenerationError(), False),
        (ValueError("503"), False),
    ],
    ids=repr,
)
def test_an_overload_is_told_by_its_status(error: Exception, is_overload: bool) -> None:
    """Refused admission has an `http_status`, and a paused engine of 0.33 a `status_code`."""
    assert compat.is_overload(error) is is_overload


@pytest.mark.parametrize("place", ["launchers", "common"])
def test_the_parser_is_found_in_both_releases(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 0.32 among the launchers, in 0.33 in `common`."""
    for folder in ("launchers", "common"):
        name = f"vllm.entrypoints.{folder}"
        package, module = ModuleType(name), ModuleType(f"{name}.cli_args")
        module.make_arg_parser = lambda parser, folder=folder: folder  # type: ignore[attr-defined]
        package.__path__ = []
        monkeypatch.setitem(sys.modules, name, package)
        if folder == place:
            monkeypatch.setitem(sys.modules, module.__name__, module)
            package.cli_args = module  # type: ignore[attr-defined]
        else:
            monkeypatch.delitem(sys.modules, module.__name__, raising=False)
    assert compat.make_arg_parser() == place


def test_every_name_stands_in_a_table() -> None:
    """In docs/vllm_surface.md no blank line cuts rows off their table's head."""
    page = (ROOT / "docs" / "vllm_surface.md").read_text(encoding="utf-8")
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
