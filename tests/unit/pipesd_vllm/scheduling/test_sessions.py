"""The sessions among a scheduler's requests, with requests that only have the numbers which are read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.v1.request import RequestStatus

from pipesd_vllm.scheduling import AddDrafts, DecodeAlone, OpenSession, PassReport
from pipesd_vllm.scheduling.sessions import Sessions

PROMPT = [1, 2, 3]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def request(name: str = "s", output: tuple[int, ...] = (4,), **changes: Any) -> Any:
    """A running request, computed up to its last token."""
    num_tokens = len(PROMPT) + len(output)
    values = {
        "request_id": name,
        "prompt_token_ids": list(PROMPT),
        "num_prompt_tokens": len(PROMPT),
        "output_token_ids": list(output),
        "num_output_tokens": len(output),
        "num_tokens": num_tokens,
        "num_computed_tokens": num_tokens - 1,
        "max_tokens": 16,
        "status": RequestStatus.RUNNING,
    }
    return SimpleNamespace(**{**values, **changes})


def step(table: Sessions, stepped: Any, num_drafts: int = 0) -> None:
    """One step of the scheduler in which `stepped` got its output tokens."""
    drafts = {stepped.request_id: [0] * num_drafts}
    output: Any = SimpleNamespace(
        num_scheduled_tokens={stepped.request_id: 1 + num_drafts}, scheduled_spec_decode_tokens=drafts
    )
    table.start_passes(output)
    table.finish_passes([stepped])


def opened(**command: Any) -> Sessions:
    """A table with the session "s", which has its first token."""
    table = Sessions(Clock())
    table.open(request(output=()), OpenSession(**command))
    step(table, request())
    return table


def chunk(*drafts: int) -> Any:
    return SimpleNamespace(request_id="s", prompt_token_ids=list(drafts))


ADD = AddDrafts(1, 4, 0, True, None)


def test_who_is_parked() -> None:
    """A session with nothing to verify, from its first token on; never an ordinary request."""
    table = opened()
    assert table.is_parked(request())
    assert not table.is_parked(request(output=()))
    assert not table.is_parked(request(num_computed_tokens=1))
    assert table.is_parked(request(num_computed_tokens=0, status=RequestStatus.PREEMPTED))
    assert not table.is_parked(request("ordinary"))
    assert not opened(eager=True).is_parked(request())


@pytest.mark.parametrize(("command", "tokens"), [(ADD, (7, 8)), (DecodeAlone(4), ())])
def test_what_ends_parking(command: Any, tokens: tuple[int, ...]) -> None:
    """Drafts to verify, and patience that ran out."""
    table = opened()
    table.apply(command, chunk(*tokens))
    assert not table.is_parked(request())


def test_drafts_of_a_step() -> None:
    """No more than asked for, none past `max_tokens`, none at all before the rest is computed."""
    table = opened()
    assert table.stage(request(), 8) == []
    table.apply(ADD, chunk(7, 8, 9))
    assert table.stage(request(num_computed_tokens=2), 8) is None
    assert table.stage(request("ordinary"), 8) is None
    assert table.stage(request(max_tokens=3), 8) == [7]
    assert table.stage(request(), 2) == [7, 8]


def test_reports_count_what_was_scheduled() -> None:
    """A session's outputs carry its counters beside what they carried anyway; the others are left alone."""
    table = opened()
    table.apply(ADD, chunk(7, 8, 9))
    table.stage(request(), 8)
    step(table, request(output=(4, 7, 5)), num_drafts=2)
    ours: Any = SimpleNamespace(request_id="s", kv_transfer_params={"other": 1})
    theirs: Any = SimpleNamespace(request_id="ordinary", kv_transfer_params=None)
    outputs: Any = {0: SimpleNamespace(outputs=[ours, theirs])}
    table.attach_reports(outputs, overhead_ms=0.5)
    report = PassReport(passes=2, drafted=2, accepted=1, overhead_ms=0.5)
    assert ours.kv_transfer_params == {"other": 1, **report.pack()}
    assert theirs.kv_transfer_params is None


def test_tokens_of_a_session_taken_over() -> None:
    """The prompt's last ones, as many as it was opened with."""
    assert opened(num_committed=2).committed(request()) == [2, 3]
    assert opened().committed(request()) == []
    assert opened().committed(request("ordinary")) == []


def test_ended_sessions_are_forgotten() -> None:
    """Requests that are no sessions may end, too."""
    table = opened()
    assert len(table) == 1
    assert "s" in table
    table.forget([request(), request("ordinary")])
    assert len(table) == 0
    assert "s" not in table
