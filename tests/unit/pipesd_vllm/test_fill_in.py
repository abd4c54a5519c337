"""Who drafts where no edge does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipesd_vllm.fill_in import MAX_DRAFTS, FillIn, is_silent, speculative_config


def parsed(config: dict[str, object]) -> Any:
    """As vLLM reads it, without the target that it asks for."""
    from vllm.config import SpeculativeConfig

    names = SpeculativeConfig.__dataclass_fields__
    assert config.keys() <= names.keys()
    return SimpleNamespace(**config)


@pytest.mark.parametrize(("fill_in", "silent"), [(FillIn.NONE, True), (FillIn.NGRAM, False)])
def test_nobody_drafts_or_vllm_does(fill_in: FillIn, silent: bool) -> None:
    """The scheduler and the workers know it from the config, by vLLM's own field names."""
    assert is_silent(parsed(speculative_config(fill_in))) is silent


@pytest.mark.parametrize("method", ["ngram_gpu", "eagle", "mtp"])
def test_an_operators_own_speculator_is_not_silenced(method: str) -> None:
    """Whatever it is, with or without an n-gram's lengths."""
    assert not is_silent(SimpleNamespace(method=method, prompt_lookup_min=2))
    assert not is_silent(SimpleNamespace(method=method, prompt_lookup_min=None))


def test_edges_may_send_long_runs_whoever_fills_in() -> None:
    """The number of drafts of a step is that of the edges; vLLM's own are as many as the schedule says."""
    for fill_in in FillIn:
        config = speculative_config(fill_in)
        assert config["num_speculative_tokens"] == MAX_DRAFTS


@pytest.mark.parametrize(("fill_in", "drafts"), [(FillIn.NONE, 0), (FillIn.NGRAM, 8)])
def test_plain_requests_get_what_the_schedule_says_at_every_batch_size(fill_in: FillIn, drafts: int) -> None:
    """vLLM's own lookup table from the ranges: where nobody drafts, a plain request has one row."""
    from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

    config = speculative_config(fill_in)
    table = build_dynamic_sd_schedule_lookup(config["num_speculative_tokens_per_batch_size"], 64, MAX_DRAFTS)
    assert set(table[1:]) == {drafts}
