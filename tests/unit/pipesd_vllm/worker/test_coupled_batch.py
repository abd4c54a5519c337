"""What is read of the model runner's batch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from pipesd_vllm.worker.coupled_batch import RunnerBatch
from pipesd_vllm.worker.sampling_rule import RULE_KEY, pack_rule, rule_of

from pipesd_vllm.wire import Sampling


def params(extra_args: dict[str, object] | None) -> SimpleNamespace:
    return SimpleNamespace(extra_args=extra_args, bad_words_token_ids=None, all_stop_token_ids=set())


def runner(**requests: SimpleNamespace | None) -> SimpleNamespace:
    """A batch whose request i has i + 2 prompt tokens and one more."""
    count = len(requests)
    return SimpleNamespace(
        requests={name: SimpleNamespace(sampling_params=each) for name, each in requests.items()},
        input_batch=SimpleNamespace(
            req_ids=list(requests),
            token_ids_cpu=np.arange(count * 10, dtype=np.int32).reshape(count, 10),
            num_tokens_no_spec=np.arange(count) + 3,
            num_prompt_tokens=np.arange(count) + 2,
        ),
    )


def test_only_requests_with_a_rule_have_a_seat() -> None:
    """Ordinary and pooling requests are passed over; committed tokens do not count as prompt."""
    rule = rule_of(Sampling(4, temperature=1.0, seed=5), 1)
    batch = RunnerBatch(runner(a=params(None), b=params(pack_rule(rule)), c=None))  # type: ignore[arg-type]
    (seat,) = batch.seats()
    assert (seat.index, seat.rule, seat.num_prompt) == (1, rule, 2)
    assert seat.tokens.tolist() == [10, 11, 12, 13]


def test_a_rule_that_cannot_be_read_breaks_its_own_seat() -> None:
    """The others have theirs; the scheduler ends the one that gets no token."""
    good = rule_of(Sampling(4, seed=5), 0)
    batch = RunnerBatch(runner(bad=params({RULE_KEY: b"no rule"}), good=params(pack_rule(good))))  # type: ignore[arg-type]
    assert [(seat.index, seat.is_broken) for seat in batch.seats()] == [(0, True), (1, False)]
    assert batch.seats()[1].rule == good


def test_a_request_id_used_again_gets_its_new_rule() -> None:
    """Rules are remembered for a request, not for a name."""
    first, second = (rule_of(Sampling(4, seed=seed), 0) for seed in (1, 2))
    fake = runner(a=params(pack_rule(first)))
    batch = RunnerBatch(fake)  # type: ignore[arg-type]
    assert [seat.rule for seat in batch.seats()] == [first]
    fake.requests["a"].sampling_params = params(pack_rule(second))
    assert [seat.rule for seat in batch.seats()] == [second]


def test_rules_of_ended_requests_are_forgotten() -> None:
    """Memory is bounded by the requests alive, not by those ever seen."""
    fake = runner(a=params(pack_rule(rule_of(Sampling(4), 0))))
    batch = RunnerBatch(fake)  # type: ignore[arg-type]
    for number in range(100):
        name = f"r{number}"
        fake.requests = {name: SimpleNamespace(sampling_params=params(pack_rule(rule_of(Sampling(4), 0))))}
        fake.input_batch.req_ids = [name]
        assert len(batch.seats()) == 1
    assert len(batch._rules) < 40
