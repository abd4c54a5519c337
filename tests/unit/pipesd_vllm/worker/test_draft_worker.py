"""The edges' drafts get into the model runner, or vLLM does not start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.lora.request import LoRARequest

from pipesd_vllm.fill_in import FillIn, speculative_config
from pipesd_vllm.target_kind import UnsupportedTargetError
from pipesd_vllm.worker.draft_worker import VerifiesDrafts, WrongWorkerError
from pipesd_vllm.worker.rejection_sampler import CoupledRejectionSampler, NullSpeculator

WIDTH = 5


class VllmsWorker:
    """Stands for vLLM's worker: notes what it was asked to do."""

    def __init__(self, config: Any, runner: Any) -> None:
        self.vllm_config = config
        self.model_runner = runner
        self.calls: list[str] = []

    def init_device(self) -> None:
        self.calls.append("init_device")

    def load_model(self) -> None:
        self.calls.append("load_model")

    def execute_model(self, scheduler_output: Any) -> list[list[int]]:
        """The drafts that the model runner would find."""
        states = self.model_runner.req_states
        return [row.tolist() for row in states.draft_tokens]


class Worker(VerifiesDrafts, VllmsWorker):
    """As `worker.py` and `cpu_worker.py` derive theirs."""


def config(fill_in: FillIn = FillIn.NONE, **changes: Any) -> Any:
    model = SimpleNamespace(
        model="org/model",
        architectures=["LlamaForCausalLM"],
        runner_type="generate",
        is_hybrid=False,
        is_attention_free=False,
        is_encoder_decoder=False,
        is_diffusion=False,
    )
    parallel = SimpleNamespace(
        pipeline_parallel_size=1, decode_context_parallel_size=1, prefill_context_parallel_size=1
    )
    values = {
        "use_v2_model_runner": True,
        "speculative_config": SimpleNamespace(
            **speculative_config(fill_in),
            enable_adaptive_verification=False,
            rejection_sample_method="standard",
        ),
        "model_config": model,
        "parallel_config": parallel,
    }
    return SimpleNamespace(**{**values, **changes})


def runner(of: Any, **changes: Any) -> Any:
    values = {
        "speculator": "vLLM's speculator",
        "rejection_sampler": SimpleNamespace(watermark_key=None),
        "sampler": "vLLM's sampler",
        "speculative_config": of.speculative_config,
        "device": torch.device("cpu"),
        "max_num_reqs": 3,
        "lora_config": None,
        "num_speculative_steps": WIDTH,
        "req_states": SimpleNamespace(
            req_id_to_index={"a": 2, "b": 0, "c": 1}, draft_tokens=torch.full((3, WIDTH), 99)
        ),
    }
    return SimpleNamespace(**{**values, **changes})


def worker(of: Any = None, **changes: Any) -> Worker:
    of = of or config()
    return Worker(of, runner(of, **changes))


def step(**drafts: list[int]) -> list[list[int]]:
    output: Any = SimpleNamespace(scheduled_spec_decode_tokens=drafts)
    rows: list[list[int]] = worker().execute_model(output)
    return rows


def test_drafts_lie_in_their_requests_rows_before_the_step() -> None:
    """What is beyond a row's drafts stays; a request without drafts keeps its row."""
    assert step(a=[1, 2, 3], b=[4, 5, 6, 7, 8]) == [[4, 5, 6, 7, 8], [99] * 5, [1, 2, 3, 99, 99]]


def test_a_step_without_drafts_changes_nothing() -> None:
    """Nobody drafted."""
    assert step() == [[99] * 5] * 3


def test_vllms_own_drafts_stay_where_the_scheduler_has_none() -> None:
    """A row of -1 is left alone, and so is what follows the edge's drafts in a row that vLLM has padded."""
    assert step(a=[-1] * 5, b=[7, 8, -1, -1], c=[-1]) == [[7, 8, 99, 99, 99], [99] * 5, [99] * 5]


@pytest.mark.parametrize(
    "changes", [{"use_v2_model_runner": False}, {"speculative_config": None}], ids=["runner", "speculation"]
)
def test_a_runner_that_verifies_no_drafts_is_refused(changes: dict[str, Any]) -> None:
    """One sentence that says what to start instead, before vLLM's worker does anything."""
    wrong = Worker(config(**changes), runner(config()))
    with pytest.raises(WrongWorkerError, match=r"Model Runner V2 .* start with 'pipesd serve'"):
        wrong.init_device()
    assert wrong.calls == []


def test_a_refused_target_is_refused_in_the_workers_too() -> None:
    """However vLLM was started."""
    hybrid = config()
    hybrid.model_config.is_hybrid = True
    wrong = worker(hybrid)
    with pytest.raises(UnsupportedTargetError, match="recurrent"):
        wrong.init_device()
    assert wrong.calls == []


def test_vllms_worker_starts_where_nothing_is_refused() -> None:
    """The check is all that comes before."""
    right = worker()
    right.init_device()
    assert right.calls == ["init_device"]


def test_our_sampler_takes_the_place_of_vllms() -> None:
    """With vLLM's own sampler inside; nobody proposes where edges alone draft."""
    loaded = worker()
    loaded.load_model()
    assert loaded.calls == ["load_model"]
    assert isinstance(loaded.model_runner.rejection_sampler, CoupledRejectionSampler)
    assert loaded.model_runner.rejection_sampler.sampler == "vLLM's sampler"
    assert isinstance(loaded.model_runner.speculator, NullSpeculator)


def test_vllms_speculator_stays_where_it_drafts() -> None:
    """The operator's own; the drafts are verified by our sampler all the same."""
    loaded = worker(config(FillIn.NGRAM))
    loaded.load_model()
    assert loaded.model_runner.speculator == "vLLM's speculator"
    assert isinstance(loaded.model_runner.rejection_sampler, CoupledRejectionSampler)


def test_a_stage_that_does_not_sample_gets_no_sampler() -> None:
    """vLLM's runner has neither there."""
    loaded = worker(None, speculator=None, rejection_sampler=None)
    loaded.load_model()
    assert (loaded.model_runner.speculator, loaded.model_runner.rejection_sampler) == (None, None)


def test_each_row_of_logits_has_its_requests_adapter() -> None:
    """A request has one for each draft and one more; vLLM's own runner counts one a request."""
    lora = LoRARequest("tiny", 4, "/tiny")
    of = worker(lora_config=object())
    of.load_model()
    states = of.model_runner.lora_state
    for row, name in enumerate("abc"):
        states.add_request(name, row, lora if name == "b" else None)
    output: Any = SimpleNamespace(scheduled_spec_decode_tokens={"a": [1, 2], "b": [3]})
    of.execute_model(output)
    rows, tokens = np.array([1, 2, 0]), np.array([2, 1, 5])
    of_rows, of_tokens, _ = states.make_lora_inputs(["b", "c", "a"], rows, tokens)
    assert of_rows == (4, 4, 0, 0, 0, 0)
    assert of_tokens == (4, 4, 0, 0, 0, 0, 0, 0)
