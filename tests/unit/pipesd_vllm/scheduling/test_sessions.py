"""The sessions among a scheduler's requests, with requests that only have the numbers which are read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from pipesd_vllm.scheduling import AddDrafts, Command, DecodeAlone, OpenSession, PassReport
from pipesd_vllm.scheduling.sessions import Sessions

PROMPT = [1, 2, 3]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class FakeRequest:
    """A request, computed up to its last token but for what is in flight."""

    def __init__(self, name: str = "s", max_tokens: int = 16) -> None:
        self.request_id = name
        self.max_tokens = max_tokens
        self.num_prompt_tokens = len(PROMPT)
        self.output_token_ids: list[int] = []
        self.num_in_flight_tokens = 0
        self.num_computed_tokens = len(PROMPT) - 1
        self.finished = False
        self.took_prefill_stats = False

    @property
    def num_output_tokens(self) -> int:
        return len(self.output_token_ids)

    @property
    def num_tokens(self) -> int:
        return len(PROMPT) + self.num_output_tokens

    def append_output_token_ids(self, tokens: Sequence[int]) -> None:
        self.output_token_ids += tokens

    def take_prefill_stats(self) -> None:
        self.took_prefill_stats = True

    def is_finished(self) -> bool:
        return self.finished


def step(table: Sessions, request: Any, new: Sequence[int], num_drafts: int = 0) -> None:
    """One step of the scheduler in which `request` got the tokens `new`."""
    output: Any = SimpleNamespace(
        num_scheduled_tokens={request.request_id: 1 + num_drafts},
        scheduled_spec_decode_tokens={request.request_id: [0] * num_drafts},
    )
    table.start_passes(output)
    request.output_token_ids += new
    request.num_computed_tokens = request.num_tokens - 1
    table.finish_passes(output)


def opened(command: OpenSession | None = None) -> tuple[Sessions, Any]:
    """A table with the session "s", which has its first token, and its request."""
    table, request = Sessions(Clock()), FakeRequest()
    table.open(request, command or OpenSession())  # type: ignore[arg-type]
    step(table, request, [4])
    return table, request


def tell(table: Sessions, command: Command, *drafts: int) -> None:
    chunk: Any = SimpleNamespace(request_id="s", prompt_token_ids=list(drafts))
    table.apply(command, chunk)


def places(table: Sessions) -> tuple[list[str], list[str], list[str]]:
    """The active, the resident and the suspended sessions."""
    return list(table.active), list(table.resident), list(table.suspended)


ADD = AddDrafts(1, 4, 0, True, None)


# -- places --------------------------------------------------------------------------------


def test_a_session_with_nothing_to_verify_is_parked() -> None:
    """From its first token on; it keeps its blocks and is counted as in none of vLLM's queues."""
    table, request = opened()
    assert table.num_parked == 0
    assert table.take_idle() == [request]
    assert places(table) == ([], ["s"], [])
    assert table.num_parked == 1
    assert table.take_idle() == []


@pytest.mark.parametrize(
    "change",
    [
        {"num_in_flight_tokens": 1},
        {"num_computed_tokens": 1},
        {"finished": True},
        {"output_token_ids": [], "num_computed_tokens": 2},
    ],
    ids=["in flight", "to compute", "ended", "no first token"],
)
def test_who_is_not_parked(change: dict[str, Any]) -> None:
    """A request of which the engine still has something to do or to say."""
    table, request = opened()
    vars(request).update(change)
    assert table.take_idle() == []
    assert places(table) == (["s"], [], [])


def test_an_eager_session_is_never_parked() -> None:
    """It decodes on without drafts."""
    table, _ = opened(OpenSession(eager=True))
    assert table.take_idle() == []


def test_only_sessions_are_active() -> None:
    """An ordinary request is in none of the places, whatever happens to it."""
    table, _ = opened()
    assert len(table) == 1
    assert "s" in table
    assert "ordinary" not in table
    assert not table.wants_pass("ordinary")
    assert table.wake("ordinary") is None
    assert table.suspend("ordinary") is None
    table.forget(["ordinary"])
    assert len(table) == 1


@pytest.mark.parametrize(("command", "tokens"), [(ADD, (7, 8)), (DecodeAlone(4), ())])
def test_what_gives_a_parked_session_something_to_do(command: Command, tokens: tuple[int, ...]) -> None:
    """Drafts to verify, and patience that ran out."""
    table, request = opened()
    table.take_idle()
    assert not table.wants_pass("s")
    tell(table, command, *tokens)
    assert table.wants_pass("s")
    assert table.wake("s") is request
    assert places(table) == (["s"], [], [])
    assert table.wake("s") is None
    assert table.take_idle() == []


def test_a_suspended_session_comes_back() -> None:
    """Only a resident one has blocks to lose; it is still parked without them."""
    table, request = opened()
    assert table.suspend("s") is None
    table.take_idle()
    assert table.suspend("s") is request
    assert table.suspend("s") is None
    assert places(table) == ([], [], ["s"])
    assert table.num_parked == 1
    assert table.wake("s") is request
    assert places(table) == (["s"], [], [])


def test_the_longest_idle_stands_first() -> None:
    """They lose their blocks in the order in which they were parked."""
    table = Sessions(Clock())
    requests = [FakeRequest(name) for name in "abc"]
    for request in requests:
        table.open(request, OpenSession())  # type: ignore[arg-type]
    for place in (1, 0, 2):
        step(table, requests[place], [4])
        table.take_idle()
    assert list(table.resident) == ["b", "a", "c"]


@pytest.mark.parametrize("place", ["active", "resident", "suspended"])
def test_ended_sessions_are_forgotten(place: str) -> None:
    """Wherever they were."""
    table, _ = opened()
    if place != "active":
        table.take_idle()
    if place == "suspended":
        table.suspend("s")
    assert list(getattr(table, place)) == ["s"]
    table.forget(["s", "ordinary"])
    assert len(table) == 0
    assert places(table) == ([], [], [])


# -- a session taken over ------------------------------------------------------------------


def test_tokens_of_a_session_taken_over_are_output() -> None:
    """vLLM counts them as generated; the first new one comes before the session waits for its edge."""
    table, request = Sessions(Clock()), FakeRequest()
    table.open(request, OpenSession(committed=[4, 5]))  # type: ignore[arg-type]
    request.num_computed_tokens = request.num_tokens - 1
    assert request.output_token_ids == [4, 5]
    assert request.took_prefill_stats
    assert table.take_idle() == []
    step(table, request, [6])
    assert table.take_idle() == [request]


def test_without_tokens_vllm_accounts_for_the_prefill() -> None:
    """Nothing was generated elsewhere."""
    _, request = opened()
    assert not request.took_prefill_stats


# -- a step --------------------------------------------------------------------------------


def test_drafts_of_a_step() -> None:
    """No more than asked for, none past `max_tokens`, none at all before the rest is computed."""
    table, request = opened()

    def num_offered(limit: int) -> int:
        return len(table.offer(request, limit).survivals)

    assert num_offered(8) == 0
    tell(table, ADD, 7, 8, 9)
    request.num_computed_tokens = 2
    assert num_offered(8) == 0
    request.num_computed_tokens = 3
    assert (num_offered(8), num_offered(2)) == (3, 2)
    assert table.stage(request, 2, 0.0) == [7, 8]
    assert table.stage(request, 0, 0.0) == []
    request.max_tokens = 3
    assert num_offered(8) == 1


def test_a_session_is_told_what_its_drafts_are_worth() -> None:
    """No cap where they cost nothing, 0 where they cost more than any is worth."""
    table, request = opened()
    reports = []
    for price in (0.0, 2.0):
        table.stage(request, 0, price)
        ours: Any = SimpleNamespace(request_id="s", kv_transfer_params=None)
        table.attach_reports({0: SimpleNamespace(outputs=[ours])}, overhead_ms=0.0)  # type: ignore[dict-item]
        reports.append(PassReport.unpack(ours.kv_transfer_params))
    assert [report and report.cap for report in reports] == [None, 0]


def test_steps_with_drafts_wait_for_each_other() -> None:
    """A session that decodes by itself runs ahead until drafts come."""
    table, request = opened(OpenSession(eager=True))
    request.num_in_flight_tokens = 1
    assert not table.must_wait(request, 8, 0.0)
    tell(table, ADD, 7, 8, 9, 10)
    assert table.must_wait(request, 8, 0.0)
    request.num_in_flight_tokens = 0
    assert not table.must_wait(request, 8, 0.0)


def test_reports_count_what_was_scheduled() -> None:
    """A session's outputs carry its counters beside what they carried anyway; the others are left alone."""
    table, request = opened()
    tell(table, ADD, 7, 8, 9)
    table.stage(request, 3, 0.0)
    step(table, request, [7, 5], num_drafts=2)
    ours: Any = SimpleNamespace(request_id="s", kv_transfer_params={"other": 1})
    theirs: Any = SimpleNamespace(request_id="ordinary", kv_transfer_params=None)
    outputs: Any = {0: SimpleNamespace(outputs=[ours, theirs])}
    table.attach_reports(outputs, overhead_ms=0.5, step_drafts=2, num_running=3)
    report = PassReport(passes=2, drafted=2, accepted=1, overhead_ms=0.5, step_drafts=2, seats_taken=3)
    assert ours.kv_transfer_params == {"other": 1, **report.pack()}
    assert theirs.kv_transfer_params is None


def test_a_session_that_was_not_scheduled_has_no_pass() -> None:
    """A step of others leaves its counters alone."""
    table, _ = opened()
    other = FakeRequest("ordinary")
    step(table, other, [1])
    ours: Any = SimpleNamespace(request_id="s", kv_transfer_params=None)
    table.attach_reports({0: SimpleNamespace(outputs=[ours])}, overhead_ms=0.0)  # type: ignore[dict-item]
    assert ours.kv_transfer_params == PassReport(passes=1).pack()


# -- failing -------------------------------------------------------------------------------


def test_an_exception_marks_its_session_and_goes_no_further() -> None:
    """It is told once, by name; an interrupt is no exception of a hook."""
    table, _ = opened()
    with table.guard("s"):
        raise ValueError("broken")
    assert table.failed == {"s"}
    assert table.take_failed() == {"s"}
    assert table.failed == frozenset()
    with pytest.raises(KeyboardInterrupt), table.guard("s"):
        raise KeyboardInterrupt
    assert table.take_failed() == set()


def test_an_exception_in_a_hook_about_all_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The log has it, and once only while it is the same."""
    table, _ = opened()
    logger = logging.getLogger("vllm.pipesd")  # vLLM's loggers hand nothing on to the root, where caplog is
    logger.addHandler(caplog.handler)
    try:
        for text in ("broken", "broken", "broken in another way"):
            with table.guard():
                raise ValueError(text)
    finally:
        logger.removeHandler(caplog.handler)
    assert table.failed == frozenset()
    assert len({id(record) for record in caplog.records}) == 2


def test_a_broken_session_does_not_keep_others_from_being_parked() -> None:
    """Its hook raised in the middle of a loop over all."""
    table, request = opened()
    broken: Any = FakeRequest("broken")
    table.open(broken, OpenSession())
    del broken.num_in_flight_tokens
    step_output: Any = SimpleNamespace(num_scheduled_tokens={}, scheduled_spec_decode_tokens={})
    table.start_passes(step_output)
    assert table.take_idle() == [request]
    assert table.failed == {"broken"}
