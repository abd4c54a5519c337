"""Which rows of the model runner's batch have a rule, and what came before them.

The one module that reads vLLM's model runner; `Seat` is all that the samplers see of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipesd_vllm.worker.sampling_rule import SamplingRule, read_rule

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

__all__ = ["Batch", "RunnerBatch", "Seat", "broken_at"]

logger = logging.getLogger("vllm.pipesd")

_UNREADABLE: Final = SamplingRule()


@dataclass(frozen=True, slots=True)
class Seat:
    """One request with a rule. `tokens`: prompt and output so far; as many as the next one's position."""

    index: int
    """Its place in the batch."""
    rule: SamplingRule
    tokens: NDArray[np.int32]
    num_prompt: int
    """How many of `tokens` were not generated."""
    is_broken: bool = False
    """Its rule cannot be read: it gets no token, and the scheduler ends it."""


@contextmanager
def broken_at(index: int, broken: set[int]) -> Iterator[None]:
    """Note an exception about the request at `index` of the batch in `broken`, instead of ending the worker.

    A `RuntimeError` goes on: that is how CUDA fails, perhaps on one rank alone, and ranks must not differ.
    """
    try:
        yield
    except RuntimeError:
        raise
    except Exception:
        logger.exception("request %d of the batch cannot be sampled and is ended", index)
        broken.add(index)


class Batch(Protocol):
    """The requests of the step under way."""

    def seats(self) -> list[Seat]:
        """Those with a rule, in the order of the batch."""


class RunnerBatch:
    """The batch of vLLM's model runner (V1). Rules are decoded once a request."""

    def __init__(self, runner: GPUModelRunner) -> None:
        self._runner = runner
        self._rules: dict[str, tuple[SamplingParams, SamplingRule]] = {}

    def seats(self) -> list[Seat]:
        batch, requests = self._runner.input_batch, self._runner.requests
        seats = []
        broken: set[int] = set()
        for index, request_id in enumerate(batch.req_ids):
            request = requests.get(request_id)
            if request is None or request.sampling_params is None or not request.sampling_params.extra_args:
                continue
            rule: SamplingRule | None = _UNREADABLE
            with broken_at(index, broken):
                rule = self._rule(request_id, request.sampling_params)
            if rule is not None:
                tokens = batch.token_ids_cpu[index, : batch.num_tokens_no_spec[index]]
                num_prompt = int(batch.num_prompt_tokens[index]) - rule.num_committed
                seats.append(Seat(index, rule, tokens, num_prompt, index in broken))
        if len(self._rules) > 2 * len(requests) + 16:  # most of them belong to requests that have ended
            self._rules = {key: rule for key, rule in self._rules.items() if key in requests}
        return seats

    def _rule(self, request_id: str, params: SamplingParams) -> SamplingRule | None:
        known = self._rules.get(request_id)
        if known is not None and known[0] is params:
            return known[1]
        rule = read_rule(params)
        if rule is not None:
            self._rules[request_id] = (params, rule)
        return rule
