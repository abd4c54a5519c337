"""Sessions on the real model runner: sync and async scheduling, few KV blocks, a speculator beside the edges.

Whatever happens to a session, its text is the one that vLLM without the plugin gives for the same request.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from .engine_process import NUM_TOKENS, SCENARIOS


@cache
def found(variant: str) -> dict[str, Any]:
    """What `engine_process.py` prints of a variant."""
    command = [sys.executable, "-m", "tests.integration.engine_process", variant]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    texts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return texts


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("sync", marks=pytest.mark.slow),
        "async",
        pytest.param("sync n-gram", marks=pytest.mark.slow),
        pytest.param("async n-gram", marks=pytest.mark.slow),
        pytest.param("sync eagle", marks=pytest.mark.slow),
    ],
)
def test_every_text_is_that_of_vllm_alone(variant: str) -> None:
    """Plain requests and sessions: drafted right and wrong, suspended, preempted in flight, taken over."""
    truth = found("stock")["plain"]
    texts = found(variant)
    assert texts["plain"] == truth
    for name in SCENARIOS:
        assert texts[name][:3] == truth, name
        assert texts[name][3:] in ([], [truth[0]]), name


@pytest.mark.slow
def test_a_lora_adapter_answers_sessions_as_it_answers_plain_requests() -> None:
    """Under all that happens to them; the texts are not the base model's."""
    truth = found("stock adapted")["plain"]
    texts = found("sync adapted")
    assert all(adapted != base for adapted, base in zip(truth, found("stock")["plain"], strict=True))
    for name in ("plain", *SCENARIOS):
        assert texts[name][:3] == truth, name
    assert texts["right drafts passes"] < 0.75 * NUM_TOKENS


@pytest.mark.parametrize("variant", [pytest.param("sync", marks=pytest.mark.slow), "async"])
def test_right_drafts_save_passes(variant: str) -> None:
    """What the texts above are compared under is no engine that ignores drafts, nor one with room for all."""
    texts = found(variant)
    assert texts["right drafts passes"] < 0.75 * NUM_TOKENS
    assert all(texts[f"{name} preemptions"] for name in ("right drafts", "suspended", "eager", "taken over"))


@pytest.mark.slow
def test_the_operators_speculator_fills_in() -> None:
    """Silent sessions take the passes of plain requests, which are those of vLLM with n-grams alone."""
    texts = found("sync n-gram")
    assert texts["alone"] == found("stock")["alone"]
    assert texts["silent passes"] == texts["alone passes"] < found("stock")["alone passes"]
    assert texts["alone passes"] == found("stock n-gram")["alone passes"]
