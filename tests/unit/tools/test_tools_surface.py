"""`tools/surface.py`: what vLLM takes away or changes is told, by name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "tools" / "surface.py"


@pytest.fixture(scope="module")
def surface() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pipesd_surface", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def first(surface: ModuleType) -> Any:
    return surface.read(surface.installed()[1])


def test_the_installed_vllm_has_all_names(surface: ModuleType, first: Any) -> None:
    """Some hundred names of every kind, and no failure without an explanation."""
    *lines, summary = surface.report(surface.installed()[0], first, first)
    assert not [line for line in lines if line.startswith("!")]
    assert summary.endswith(" 0 missing")
    assert {
        "--scheduler-cls",
        "VLLM_USE_V2_MODEL_RUNNER",
        "vllm.general_plugins",
        "vllm.v1.request.Request",
        "vllm.v1.request.Request.spec_token_ids",  # of an argument
        "vllm.v1.core.sched.scheduler.Scheduler.deferred_waiting",
        "vllm.v1.core.kv_cache_manager.KVCacheManager.allocate_slots",  # of an attribute of an argument
        "vllm.v1.core.sched.async_scheduler.AsyncScheduler.schedule (overridden)",  # by a mixin
        "vllm.v1.worker.gpu.sample.gumbel._gumbel_sample_kernel",
        "vllm.engine.protocol.StreamingInput(*, *)",
    } <= first.uses.keys()


def test_changes_are_told(surface: ModuleType, first: Any) -> None:
    """A member, a type, an override, a call, a kernel, its body, a flag, a class, a field: in one reading."""
    scheduler, gpu = "vllm.v1.core.sched.scheduler", "vllm.v1.worker.gpu"
    changes = [
        (scheduler, "self.deferred_waiting", "self.later", "Scheduler.deferred_waiting is not there"),
        (
            scheduler,
            "grammar_compile_error_reqs: set[str]",
            "grammar_compile_error_reqs: list[int]",
            "Scheduler.grammar_compile_error_reqs was set[str], is list[int]",
        ),
        (
            scheduler,
            "def add_request(self, request: Request",
            "def add_request(self, added: Request",
            "Scheduler.add_request (overridden) has 'added' where the override has 'request'",
        ),
        (
            scheduler,
            "self, request: Request, timestamp: float, drop_stale_output: bool = False",
            "self, request: Request",
            "Scheduler._preempt_request(*, *) does not fit: too many positional arguments",
        ),
        (
            f"{gpu}.spec_decode.rejection_sampler",
            "def _verify(",
            "def _check(",
            "RejectionSampler._verify (overridden) is not reached",
        ),
        (
            f"{gpu}.sample.min_p",
            "def _min_p_kernel(",
            "def _min_p_kernel(more, ",
            "_min_p_kernel takes ['more'",
        ),
        (f"{gpu}.sample.gumbel", "h *= 0x85EBCA6B", "h *= 1", "_gumbel_sample_kernel has another body"),
        ("vllm.engine.arg_utils", '"--scheduler-cls"', '"--scheduler"', "--scheduler-cls is not there"),
        (
            "vllm.v1.outputs",
            "class DraftTokenIds",
            "class Drafts",
            "vllm.v1.outputs.DraftTokenIds is not there",
        ),
        (
            "vllm.sampling_params",
            "\n    min_p: float",
            "\n    min_q: float",
            "an unexpected keyword argument",
        ),
    ]
    texts = {module: first.text(module)[0] for module, *_ in changes}
    for module, old, new, _ in changes:
        assert old in texts[module], old
        texts[module] = texts[module].replace(old, new)
    changed = surface.read(surface.installed()[1], texts)
    told = [f"{name} {failure}" for name, failure in surface.compare(first, changed).items()]
    assert not [failure for *_, failure in changes if not any(failure in line for line in told)], told


def test_an_explanation_counts_for_its_own_release_line(
    surface: ModuleType, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure that is explained for one line is one in another."""
    monkeypatch.setitem(first.failures, "vllm.thing", "is not there")
    monkeypatch.setattr(surface, "EXPLAINED", {**surface.EXPLAINED, ("0.33", "vllm.thing"): "a reason"})
    assert "0.33.0: vllm.thing is not there (a reason)" in surface.report("0.33.0", first, first)
    assert "! 0.32.0: vllm.thing is not there" in surface.report("0.32.0", first, first)


def test_relative_imports_and_conditions_bind(surface: ModuleType) -> None:
    """As Python resolves them; the first definition of a name counts, an import under a condition too."""
    tree = surface.ast.parse(
        "from . import a\nfrom ..b import c as d\nimport e.f\nimport e.g as h\n"
        "if x:\n    from i import j\nelse:\n    k = 1\n"
    )
    bound = surface.bindings(tree.body, "p.q")
    assert {name: value for name, value in bound.items() if isinstance(value, str)} == {
        "a": "p.q.a",
        "d": "p.b.c",
        "e": "e",
        "h": "e.g",
        "j": "i.j",
    }
    assert "k" in bound
