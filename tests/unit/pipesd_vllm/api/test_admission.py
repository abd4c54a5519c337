"""What turns may take of a server, with a clock moved by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_vllm.api.admission import OpenContexts, Tenant, TokenBucket
from pipesd_vllm.api.validation import RefuseTurn
from pipesd_vllm.wire import RefusalCode


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


# -- buckets -------------------------------------------------------------------------------


@given(st.floats(0.5, 100.0), st.floats(1.0, 20.0), st.lists(st.floats(0.0, 3.0), min_size=5, max_size=60))
def test_no_more_pass_than_the_rate_and_the_burst_allow(
    per_s: float, burst: float, waits_s: list[float]
) -> None:
    """Whoever waits as told never has more than `burst` and one beyond the rate; nobody waits for longer."""
    clock = Clock()
    bucket = TokenBucket(per_s, burst, clock)
    for passed, wait_s in enumerate(waits_s, 1):
        clock.now_s += wait_s + bucket.wait_s()
        bucket.take()
        assert passed <= burst + per_s * clock.now_s + 1.0 + 1e-6
        assert bucket.wait_s() <= 1.0 / per_s + 1e-9


def test_a_large_amount_is_paid_for_afterwards() -> None:
    """A frame of many drafts passes, and what comes after it waits."""
    clock = Clock()
    bucket = TokenBucket(10.0, 10.0, clock)
    assert bucket.take(30.0) == pytest.approx(2.0)
    clock.now_s = 2.0
    assert bucket.take(0.5) > 0.0


# -- the KV cache --------------------------------------------------------------------------


def refused(tenant: Tenant, num_tokens: int) -> RefuseTurn:
    with pytest.raises(RefuseTurn) as caught:
        tenant.hold(num_tokens)
    assert caught.value.code is RefusalCode.OVERLOADED
    assert (caught.value.retry_after_s or 0.0) > 0.0
    return caught.value


def test_turns_fill_the_cache_and_no_more() -> None:
    """What has ended, or is suspended, makes room; tokens that a turn gains count."""
    contexts = OpenContexts(100, 100)
    one, other = Tenant("one", contexts), Tenant("other", contexts)
    first = one.hold(60)
    first.grow(10)
    second = other.hold(30)
    refused(one, 1)
    second.suspend()
    third = one.hold(30)
    second.grow(5)
    second.resume()  # it may come back, and pushes nobody out by being counted
    assert contexts.num_tokens == 135
    for hold in (first, second, third, third):
        hold.suspend()
    assert contexts.num_tokens == 0
    one.hold(100)


def test_a_turn_larger_than_the_cache_is_the_engines_business() -> None:
    """Where nothing else is open vLLM says what fits."""
    Tenant("one", OpenContexts(100, 50)).hold(1000)


def test_one_key_leaves_room_for_others() -> None:
    """Beyond its part its turns are refused by name; other keys' are not."""
    told: list[str] = []
    contexts = OpenContexts(100, 40)
    greedy = Tenant("greedy", contexts, on_refusal=told.append)
    greedy.hold(30)
    assert "API key" in str(refused(greedy, 20))
    Tenant("other", contexts).hold(40)
    assert told == ["key_kv_full"]


def test_without_a_limit_nothing_is_refused() -> None:
    """As where the engine does not tell how large its cache is."""
    for _ in range(3):
        Tenant("one", OpenContexts()).hold(10**9)


# -- turns a second ------------------------------------------------------------------------


def test_turns_a_second_are_bounded_by_key() -> None:
    """The refusal says how long to wait, and waiting so long helps."""
    clock, told = Clock(), list[str]()
    tenant = Tenant("one", turns=TokenBucket(10.0, 2.0, clock), on_refusal=told.append)
    for _ in range(3):
        tenant.begin_turn()
    with pytest.raises(RefuseTurn) as caught:
        tenant.begin_turn()
    assert told == ["key_turns"]
    assert caught.value.retry_after_s is not None
    clock.now_s += caught.value.retry_after_s + 1e-9
    tenant.begin_turn()
