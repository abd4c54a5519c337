"""When a session wants a pass and what it reports of it."""

import pytest

from pipesd_vllm.scheduling import AddDrafts, EngineSession


def session(*, eager: bool = False) -> EngineSession:
    return EngineSession(num_tokens=10, eager=eager, now_s=0.0)


def test_a_session_without_drafts_is_idle() -> None:
    """Nothing to verify: no pass, unless the session is eager."""
    assert not session().wants_pass()
    assert session(eager=True).wants_pass()


def test_patience_is_granted_once_until_drafts_arrive() -> None:
    """Left alone, a session decodes on; drafts that fit make it wait for drafts again."""
    idle = session()
    idle.decode_alone(10)
    assert idle.wants_pass()
    idle.start_pass(0, 1.0)
    idle.finish_pass([5], 2.0)
    assert idle.wants_pass()
    idle.trie.add(1, 99, 0, [1])
    idle.release(now_s=3.0)
    assert idle.wants_pass()  # those did not fit
    idle.trie.add(2, 11, 0, [7])
    idle.release(now_s=3.0)
    idle.finish_pass([8], 4.0)
    assert not idle.wants_pass()


def test_late_impatience_is_ignored() -> None:
    """What was asked for before the last commit does nothing."""
    idle = session()
    idle.finish_pass([5], 1.0)
    idle.decode_alone(10)
    assert not idle.wants_pass()


def test_an_edge_can_say_that_it_will_be_silent() -> None:
    """Whatever was committed meanwhile."""
    idle = session()
    idle.finish_pass([5], 1.0)
    idle.decode_alone()
    assert idle.wants_pass()


def test_a_session_changes_its_mode_under_way() -> None:
    """Eager it decodes on, and no longer eager it waits for drafts again, whatever its patience was."""
    idle = session()
    idle.set_eager(True)
    assert idle.runs_free(8)
    idle.decode_alone()
    idle.set_eager(False)
    assert not idle.wants_pass()


def test_report_counts_accepted_drafts_and_times() -> None:
    """Two of three drafts kept; queue and step times in milliseconds."""
    busy = session()
    busy.trie.add(1, 10, 0, [1, 2, 3])
    busy.release(now_s=1.0)
    assert busy.stage(8) == [1, 2, 3]
    busy.start_pass(3, now_s=1.25)
    busy.finish_pass([1, 2, 9], now_s=1.5)
    report = busy.report
    assert (report.passes, report.drafted, report.accepted) == (1, 3, 2)
    assert (report.queue_ms, report.step_ms) == (250.0, 250.0)
    assert busy.frontier == 13


def test_the_prompts_steps_are_no_passes() -> None:
    """A long prompt takes several, streamed too. Nor do they tell what a pass takes and yields."""
    long, short = session(eager=True), session(eager=True)
    for step in range(20):
        long.start_pass(0, step)
        long.finish_pass([], step + 1.0)
    for eager, now_s in ((long, 20.0), (short, 0.0)):
        eager.start_pass(0, now_s)
        eager.finish_pass([5], now_s + 0.25)
    assert (long.report, long.record.pace) == (short.report, short.record.pace)
    assert (long.report.passes, long.report.step_ms) == (1, 250.0)


def test_a_context_that_is_computed_anew_is_paid_for() -> None:
    """Streaming would not have lost it."""
    busy = session(eager=True)
    for tokens in ([5], [], [6]):
        busy.start_pass(0, 1.0)
        busy.finish_pass(tokens, 1.5)
    assert busy.report.passes == 3


def test_drafts_cut_by_the_scheduler_are_not_counted() -> None:
    """Only the drafts that were scheduled count as verified."""
    busy = session()
    busy.trie.add(1, 10, 0, [1, 2, 3])
    busy.release(now_s=0.0)
    busy.stage(8)
    busy.start_pass(1, now_s=0.0)
    busy.finish_pass([1, 2], now_s=0.1)
    assert (busy.report.drafted, busy.report.accepted) == (1, 1)
    assert busy.wants_pass()  # token 3 still fits


def test_drafts_that_are_taken_up_again_are_counted_apart() -> None:
    """The edge sent each of its drafts once, and nobody says that more of them were checked."""
    busy = session()
    busy.trie.add(1, 10, 0, [1, 2, 3, 4, 5])
    busy.release(now_s=0.0)
    for staged, committed in (([1, 2, 3, 4, 5], [1, 9]), ([3, 4, 5], [3, 4])):
        assert busy.stage(8) == staged
        busy.start_pass(len(staged), now_s=0.0)
        busy.finish_pass(committed, now_s=1.0)
    assert (busy.report.drafted, busy.report.accepted, busy.report.resumed) == (5, 1, 3)


def test_a_session_without_drafts_runs_free_if_it_may_decode_at_all() -> None:
    """Then its steps need not wait for each other; drafts hang from the last committed token."""
    idle, eager = session(), session(eager=True)
    assert not idle.runs_free(8)
    assert eager.runs_free(8)
    eager.trie.add(1, 10, 0, [1, 2, 3, 4])
    assert eager.runs_free(8)  # they are not released yet
    eager.release(now_s=1.0)
    assert not eager.runs_free(8)
    eager.finish_pass([1, 2, 3, 4, 5], 2.0)
    assert eager.runs_free(8)
    idle.decode_alone(10)
    assert idle.runs_free(8)


@pytest.mark.parametrize(("confidence", "runs_free"), [(255, False), (60, False), (10, True), (0, True)])
def test_a_session_that_is_alone_waits_for_a_small_chance_of_a_token(
    confidence: int, runs_free: bool
) -> None:
    """Also one whose drafts have saved nothing so far: it would never find out that they do by now."""
    sole = session(eager=True)
    sole.trie.add(1, 10, 0, [1, 2], confidences=bytes([255, confidence]))
    sole.release(now_s=1.0)
    assert sole.runs_free(8)
    assert sole.runs_free(8, sole_at_s=1.0) is runs_free


def test_drafts_that_bring_no_more_than_a_step_are_not_waited_for() -> None:
    """To wait costs a token, which the drafts behind the one in flight must bring, at the step's price."""
    eager = session(eager=True)
    eager.trie.add(1, 10, 0, [1, 2], confidences=bytes([255, 255]))
    eager.release(now_s=1.0)
    assert eager.runs_free(8)
    eager.trie.add(3, 12, 2, [3], confidences=bytes([255]))
    eager.release(now_s=1.0)
    assert not eager.runs_free(8)
    assert eager.runs_free(8, price=0.98)
    waiting = session()
    waiting.trie.add(1, 10, 0, [1])
    waiting.release(now_s=1.0)
    assert not waiting.runs_free(8)  # it decodes nothing without drafts


def test_times_of_passes_in_flight_are_their_own() -> None:
    """Two steps are under way: the second runs once the first is done, and reports that time only."""
    eager = session(eager=True)
    eager.start_pass(0, now_s=1.0)
    eager.start_pass(0, now_s=3.0)
    eager.finish_pass([5], now_s=4.0)
    assert eager.report.step_ms == 3000.0
    eager.finish_pass([6], now_s=5.0)
    assert eager.report.step_ms == 1000.0
    assert (eager.report.passes, eager.frontier) == (2, 12)


def test_an_eager_session_takes_drafts_that_nobody_asked_to_verify() -> None:
    """It decodes anyway; one that waits is asked first."""
    for is_eager in (True, False):
        busy = session(eager=is_eager)
        busy.add(AddDrafts(1, 10, 0, verify=False, parents=None), [1, 2], 1.0)
        assert busy.trie.has_released() is is_eager


def test_a_sole_session_waits_for_its_steps_while_drafts_are_on_their_way() -> None:
    """With others there is always a step that they come in time for. Drafts that never come end the wait."""
    eager, now_s = session(eager=True), 0.0
    for number in range(4):  # cycles of a pass with drafts and two without, 30 ms for an answer
        eager.add(AddDrafts(1 + 3 * number, eager.frontier, 0, True, None, b"", 0.030), [1, 2, 3], now_s)
        for tokens, num_drafts in (([1, 2, 9], 3), ([4], 0), ([5], 0)):
            eager.stage(num_drafts)
            eager.start_pass(num_drafts, now_s)
            now_s += 0.015
            eager.finish_pass(tokens, now_s)
    last_s = now_s - 0.030
    assert not eager.runs_free(8, sole_at_s=last_s + 0.001)
    assert eager.runs_free(8)
    assert [eager.awaits_drafts(last_s + s) for s in (0.001, 0.015, 0.029)] == [False, False, True]
    assert eager.runs_free(8, sole_at_s=last_s + 0.040)
    assert not eager.awaits_drafts(last_s + 0.040)
    eager.add(AddDrafts(99, eager.frontier, 0, True, None), [6], last_s + 0.03)
    assert not eager.awaits_drafts(last_s + 0.03), "they are there"
    assert eager.runs_free(8), "one draft is not worth a step"
    assert not eager.runs_free(8, sole_at_s=last_s + 0.03)
