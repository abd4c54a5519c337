"""Sessions in vLLM's real scheduler: parking, KV pressure, exactness under hostile drafts."""

import gc
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import DraftTokenIds
from vllm.v1.request import RequestStatus

from benchmarks.exactness.drafts import KINDS, DraftMaker
from pipesd_vllm import compat
from pipesd_vllm.scheduling import AddDrafts, CloseSession, DecodeAlone, EngineSession, OpenSession, Suspend
from pipesd_vllm.scheduling.scheduler import AsyncPipeSDScheduler, PipeSDScheduler, SchedulesSessions

from .scheduler_harness import MAX_DRAFT, Harness, target_text

PROMPT = [101, 202, 303, 404, 505]
pytestmark = pytest.mark.filterwarnings("ignore")


def draft(first: int, base: int, anchor: int = 0, verify: bool = True) -> AddDrafts:
    return AddDrafts(first, base, anchor, verify, None)


def test_a_session_without_drafts_sleeps_after_its_first_token() -> None:
    """The first token comes by itself; then the engine has no work although the session lives."""
    engine = Harness()
    engine.open("s", PROMPT, 20)
    engine.run()
    assert engine.text["s"] == target_text(PROMPT, 1)
    assert not engine.has_work()
    assert "s" in engine.scheduler.requests


def test_right_drafts_are_kept_in_one_pass() -> None:
    """Eight right drafts and a bonus token come from one pass."""
    engine = Harness()
    engine.open("s", PROMPT, 40)
    engine.run()
    truth = target_text(PROMPT, 40)
    engine.tell("s", draft(1, 6), truth[1:9])
    engine.run()
    assert engine.text["s"] == truth[:10]
    assert engine.passes["s"] == 2


def test_drafts_made_before_the_first_token_count() -> None:
    """An edge that drafts from the prompt on saves the second round trip."""
    engine = Harness()
    truth = target_text(PROMPT, 10)
    engine.open("s", PROMPT, 10)
    engine.tell("s", draft(1, 5), truth[:6])
    engine.run()
    assert engine.text["s"] == truth[:7]


def test_a_chain_goes_on_without_a_round_trip() -> None:
    """Drafts sent while a pass runs are verified at once when they still fit."""
    engine = Harness()
    engine.open("s", PROMPT, 40)
    engine.run()
    truth = target_text(PROMPT, 40)
    engine.tell("s", draft(1, 6), truth[1:5])
    engine.tell("s", draft(5, 10, anchor=4), truth[5:20])
    engine.run()
    assert engine.text["s"] == truth[:21]


def test_a_session_ends_at_max_tokens_and_leaves_nothing() -> None:
    """Drafts beyond the end are cut; blocks, request and session state are gone."""
    engine = Harness()
    engine.open("s", PROMPT, 6)
    engine.run()
    engine.tell("s", draft(1, 6), target_text(PROMPT, 20)[1:])
    engine.run()
    assert engine.text["s"] == target_text(PROMPT, 6)
    assert engine.finished == {"s"}
    assert not engine.scheduler._sessions
    assert engine.used_blocks() == 0


def test_late_chunks_of_an_ended_session_are_dropped() -> None:
    """Drafts and vLLM's end-of-input marker after the end start nothing."""
    engine = Harness()
    engine.open("s", PROMPT, 6)
    engine.run()
    engine.scheduler.finish_requests("s", RequestStatus.FINISHED_ABORTED)
    for command in (draft(1, 6), DecodeAlone(6), Suspend(), CloseSession()):
        engine.tell("s", command)
    assert not engine.scheduler.requests
    engine.run()


def test_a_session_that_vllm_ends_in_its_step_leaves_the_others_alone() -> None:
    """A request that fails while its step runs takes nobody with it."""
    engine = Harness()
    for name in "ab":
        engine.open(name, PROMPT, 4, eager=True)
    engine.step()
    engine.step(meanwhile=lambda: compat.fail_request(engine.scheduler, "a"))
    engine.run()
    assert engine.finished == {"a", "b"}
    assert engine.text["b"] == target_text(PROMPT, 4)
    assert not engine.scheduler._sessions


def test_patience_and_eager_sessions_decode_alone() -> None:
    """An eager session needs no drafts; one whose patience ran out goes on until drafts come."""
    engine = Harness()
    engine.open("patient", PROMPT, 10)
    engine.open("eager", PROMPT, 10, eager=True)
    engine.run()
    assert engine.text["eager"] == target_text(PROMPT, 10)
    engine.tell("patient", DecodeAlone(6))
    engine.step()
    engine.step()
    truth = target_text(PROMPT, 10)
    assert engine.text["patient"] == truth[:3]
    engine.tell("patient", draft(1, 8), truth[3:5])
    engine.run()
    assert engine.text["patient"] == truth[:6]


def test_ordinary_requests_run_beside_parked_sessions() -> None:
    """Requests of vLLM's own API are served as ever, and do not wake the parked ones."""
    engine = Harness()
    for name in "abc":
        engine.open(name, [*PROMPT, ord(name)], 10)
    engine.run()
    engine.add("plain", PROMPT, 12)
    engine.run()
    assert engine.text["plain"] == target_text(PROMPT, 12)
    assert all(engine.passes[name] == 1 for name in "abc")


def test_parked_sessions_give_way_under_kv_pressure() -> None:
    """A request that needs the parked sessions' blocks gets them; the sessions come back exactly."""
    engine = Harness(num_blocks=13)
    prompts = {name: [ord(name)] * 40 for name in "abc"}  # 3 blocks each
    for name, prompt in prompts.items():
        engine.open(name, prompt, 40)
        engine.run()
    engine.add("plain", [7] * 120, 20)  # 9 of 12 blocks
    engine.run()
    assert engine.text["plain"] == target_text([7] * 120, 20)
    for name, prompt in prompts.items():
        truth = target_text(prompt, 40)
        while name not in engine.finished:
            done = len(engine.text[name])
            engine.tell(name, draft(1000 + done, len(prompt) + done), truth[done : done + 6] or [1])
            engine.run()
        assert engine.text[name] == truth


def test_parked_sessions_do_not_hold_seats() -> None:
    """With every seat taken by parked sessions a new request still starts."""
    engine = Harness(max_num_seqs=2)
    engine.open("a", PROMPT, 10)
    engine.open("b", [*PROMPT, 1], 10)
    engine.run()
    engine.add("plain", [9, 9], 5)
    engine.run()
    assert engine.text["plain"] == target_text([9, 9], 5)


def test_parked_sessions_lose_their_blocks_before_what_runs() -> None:
    """A request that grows into the last block takes it from the longest idle session."""
    engine = Harness(num_blocks=13)
    for name in "abc":
        engine.open(name, [ord(name)] * 40, 40)  # 3 blocks each
        engine.run()
    for name in "xy":
        engine.add(name, [ord(name)] * 8, 30)
    engine.run()
    assert list(engine.scheduler._sessions.suspended) == ["a"]
    for name in "xy":
        assert engine.text[name] == target_text([ord(name)] * 8, 30)


def test_a_session_that_comes_back_stands_behind_who_waits() -> None:
    """A suspended session has no claim to the next seat."""
    engine = Harness(max_num_seqs=1)
    engine.open("s", PROMPT, 10)
    engine.run()
    for name in "ab":
        engine.add(name, [*PROMPT, ord(name)], 5)
    engine.step()
    engine.tell("s", draft(1, 6), target_text(PROMPT, 10)[1:])
    assert [request.request_id for request in engine.scheduler.waiting] == ["b", "s"]
    engine.run()
    assert engine.text["s"] == target_text(PROMPT, 10)


def test_parked_sessions_are_in_nobodys_count() -> None:
    """Neither gauges nor load balancers nor the engine's loop take them for work."""
    engine = Harness()
    for name in "abc":
        engine.open(name, [*PROMPT, ord(name)], 10)
    engine.run()
    engine.tell("a", Suspend())
    engine.scheduler.connector = object()  # with one vLLM compares queues and requests
    engine.scheduler.finished_req_ids.clear()
    assert engine.scheduler.get_request_counts() == (0, 0)
    assert engine.scheduler.get_num_unfinished_requests() == 0
    assert not engine.scheduler.has_finished_requests()


def test_the_prefix_cache_can_be_reset_beside_parked_sessions() -> None:
    """As after new weights: nobody keeps blocks, and the sessions come back."""
    engine = Harness()
    engine.open("s", PROMPT, 10)
    engine.run()
    assert engine.scheduler.reset_prefix_cache(reset_running_requests=True)
    assert engine.used_blocks() == 0
    engine.tell("s", draft(1, 6), target_text(PROMPT, 10)[1:])
    engine.run()
    assert engine.text["s"] == target_text(PROMPT, 10)


@pytest.mark.parametrize("scheduler", [PipeSDScheduler, AsyncPipeSDScheduler])
@pytest.mark.parametrize("eager", [False, True])
def test_a_session_taken_over_goes_on_where_it_was(scheduler: type[SchedulesSessions], eager: bool) -> None:
    """What was committed elsewhere counts as output, also where its blocks are in the prefix cache."""
    engine = Harness(scheduler=scheduler)
    prompt = PROMPT * 8
    truth = target_text(prompt, 60)
    engine.open("before", prompt, 60, eager=True)
    engine.run()
    engine.add("s", prompt, 60, OpenSession(eager, truth[:30]))
    engine.run()
    while engine.text["s"] != truth[30:]:
        done = 30 + len(engine.text["s"])
        engine.tell("s", draft(done, len(prompt) + done), truth[done : done + 6])
        engine.run()
    assert "s" in engine.finished


def test_eager_sessions_run_ahead_until_drafts_come() -> None:
    """Under async scheduling: two steps in flight as for a plain request, and drafts are still kept."""
    engine = Harness(scheduler=AsyncPipeSDScheduler)
    truth = target_text(PROMPT, 40)
    engine.open("s", PROMPT, 40, eager=True)
    for _ in range(4):
        engine.step()
    assert engine.scheduler.requests["s"].num_in_flight_tokens == 1
    done = len(engine.text["s"])
    engine.tell("s", draft(1, 5 + done), truth[done : done + 12])
    engine.run()
    assert engine.text["s"] == truth
    assert engine.passes["s"] < 40 - 6


def test_a_request_whose_grammar_compiles_drives_out_nobody() -> None:
    """Parked sessions keep blocks and seats until the grammar is there; then one gives its seat."""
    engine = Harness(max_num_seqs=2)
    for name in "ab":
        engine.open(name, [*PROMPT, ord(name)], 10)
    engine.run()
    engine.add("structured", [9, 9], 5, structure=StructuredOutputsParams(json_object=True))
    for _ in range(5):
        engine.step()
    assert len(engine.scheduler._sessions.resident) == 2
    compiled = engine.scheduler.requests["structured"].structured_output_request
    compiled.grammar = ValueError("a result like any other, and it ends the request")
    engine.run()
    assert engine.finished == {"structured"}


THINK, ANSWER = 6, 7


class Reasoner:
    """A reasoning parser, as the structured-output manager asks it: thoughts stand between two tokens."""

    def __init__(self, tokenizer: object) -> None:
        pass

    def is_reasoning_end(self, token_ids: Sequence[int]) -> bool:
        marks = [token for token in token_ids if token in (THINK, ANSWER)]
        return marks[-1:] == [ANSWER]

    def is_reasoning_end_streaming(self, token_ids: Sequence[int], new_ids: Sequence[int]) -> bool:
        return ANSWER in new_ids


class Grammar:
    """Refuses thoughts (tokens below 10 000 are the target's, above it they are thoughts)."""

    def __init__(self) -> None:
        self.fed: list[int] = []

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        self.fed += tokens
        return max(tokens, default=0) < 10_000

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        return tokens


@pytest.mark.parametrize(
    ("prompt", "thoughts", "content"),
    [
        (PROMPT, [10_001, 10_002, ANSWER], [60, 61]),
        ([*PROMPT, THINK], [10_001, ANSWER], [60, 61]),
        ([*PROMPT, THINK, 9, ANSWER, 8, THINK], [10_001, ANSWER], [60]),
        (PROMPT, [10_001, ANSWER], []),
        (PROMPT, [10_001, 10_002], None),
        ([*PROMPT, THINK, ANSWER], [], [60, 61]),
    ],
    ids=["both", "begun by the template", "second turn", "just ended", "still thinking", "no thinking"],
)
def test_a_grammar_is_fed_what_follows_the_reasoning(
    prompt: list[int], thoughts: list[int], content: list[int] | None
) -> None:
    """A session taken over, at any point: its grammar sees the answer, never the thoughts before it."""
    engine, grammar = Harness(), Grammar()
    engine.scheduler.structured_output_manager.reasoner_cls = Reasoner
    committed = [*thoughts, *(content or [])]
    structure = StructuredOutputsParams(json_object=True)
    command = OpenSession(eager=True, committed=committed)
    engine.add("s", prompt, len(committed) + 5, command, structure)
    engine.scheduler.requests["s"].structured_output_request.grammar = grammar
    engine.run()
    assert engine.text["s"] == target_text([*prompt, *committed], 5)
    assert grammar.fed == ([] if content is None else [*content, *engine.text["s"]])


def test_a_session_says_how_its_thoughts_are_told_apart() -> None:
    """vLLM tells a plain request's grammar the same two things, and takes them with no resumable request."""
    engine = Harness()
    command = OpenSession(True, (), True, {"chat_template_kwargs": {"enable_thinking": False}})
    engine.add("s", PROMPT, 5, command, StructuredOutputsParams(json_object=True))
    structured = engine.scheduler.requests["s"].structured_output_request
    assert structured.reasoning_ended is True
    assert structured.reasoning_parser_kwargs == command.reasoning_parser_kwargs


def test_a_suspended_session_holds_no_blocks_and_comes_back() -> None:
    """Suspend frees the KV; the next drafts bring the session back from its tokens."""
    engine = Harness()
    engine.open("s", PROMPT, 10)
    engine.run()
    engine.tell("s", Suspend())
    assert engine.used_blocks() == 0
    assert not engine.has_work()
    truth = target_text(PROMPT, 10)
    engine.tell("s", draft(1, 6), truth[1:])
    engine.run()
    assert engine.text["s"] == truth


def test_a_paused_engine_finishes_what_runs() -> None:
    """While nothing new may start, suspended sessions are not taken off those that run."""
    engine = Harness()
    for name in "abc":
        engine.open(name, PROMPT, 10)
    engine.run()
    for name in "abc":
        engine.tell(name, Suspend())
    engine.add("plain", PROMPT, 5)
    engine.step()
    engine.scheduler.set_pause_state(PauseState.PAUSED_NEW)
    engine.run()
    assert engine.text["plain"] == target_text(PROMPT, 5)


def test_drafts_that_workers_make_up_are_not_verified() -> None:
    """Near the context limit vLLM's runner has zeros for everybody; a step still costs a token a request."""
    engine = Harness()
    engine.add("plain", PROMPT, 6)
    engine.open("s", PROMPT, 6, eager=True)
    engine.step()
    while engine.has_work():
        zeros = DraftTokenIds(["plain", "s"], [[0] * MAX_DRAFT, [0] * MAX_DRAFT])
        engine.scheduler.update_draft_token_ids(zeros)
        output = engine.step()
        assert set(output.num_scheduled_tokens.values()) <= {1}
        engine.scheduler.update_draft_token_ids_in_output(zeros, output)
        assert not output.scheduled_spec_decode_tokens
    assert engine.text["plain"] == engine.text["s"] == target_text(PROMPT, 6)


def test_a_chunk_that_comes_too_late_is_reported_finished() -> None:
    """vLLM's data parallel load balancer has booked it as a new request, on any engine, and is told."""
    engine = Harness(data_parallel=True)
    engine.open("s", PROMPT, 3, eager=True)
    engine.run()
    assert engine.reported == ["s"]
    engine.tell("s", draft(1, 6))
    engine.tell("never seen here", draft(1, 6))
    engine.add("plain", PROMPT, 1)
    engine.run()
    assert sorted(engine.reported) == ["never seen here", "plain", "s", "s"]
    assert not engine.scheduler.requests


def test_a_chunk_in_time_is_not_reported_finished() -> None:
    """Also not while its session, having failed, waits for the step that ends it."""
    engine = Harness(data_parallel=True)
    engine.open("s", PROMPT, 20)
    engine.run()
    engine.tell("s", draft(1, 6))
    engine.run()
    assert not engine.reported
    engine.tell("s", BAD_DRAFT)
    engine.tell("s", draft(9, 8))
    engine.run()
    assert engine.reported == ["s"]


# -- the verification budget ----------------------------------------------------------------


WRONG = 1
"""A token that the target never says."""


class Machine:
    """A clock, and a scheduler on it whose steps take `base_s` and `row_s` a token."""

    def __init__(self, base_s: float, row_s: float) -> None:
        self.now_s = 0.0
        self._costs = base_s, row_s
        kind = type("Clocked", (PipeSDScheduler,), {"clock": staticmethod(lambda: self.now_s)})
        self.engine = Harness(scheduler=kind, has_budget=True)
        self._schedule = self.engine.scheduler.schedule
        self.engine.scheduler.schedule = self._stepping
        self.most_drafts = 0

    def _stepping(self) -> SchedulerOutput:
        output = self._schedule()
        base_s, row_s = self._costs
        self.now_s += base_s + row_s * output.total_num_scheduled_tokens
        drafts = output.scheduled_spec_decode_tokens.values()
        self.most_drafts = max(map(len, drafts), default=0)
        return output

    def cap(self, name: str) -> int | None:
        """What the session is told."""
        return self.engine.scheduler._sessions._sessions[name].report.cap


@pytest.mark.parametrize(("row_s", "pays"), [(0.0001, True), (1.0, False)])
def test_drafts_are_verified_where_their_rows_pay(row_s: float, pays: bool) -> None:
    """Drafts every other of which is wrong: most where a row costs little; none, and a cap of 0, where it is
    as dear as a step. The text is the target's either way.
    """
    machine = Machine(0.1, row_s)
    engine, truth = machine.engine, target_text(PROMPT, 120)
    names = ["a", "b", "c"]
    for name in names:
        engine.open(name, PROMPT, 120, eager=True)
    engine.step()
    for number in range(20):
        for name in names[: 1 + number % 3]:  # so that steps differ in size
            at = len(engine.text[name])
            engine.tell(name, draft(1 + 100 * number, 5 + at), [truth[at], *[WRONG] * (1 + number % 2)])
        engine.step()
    for name in names:
        at = len(engine.text[name])
        engine.tell(name, draft(9000, 5 + at), [truth[at], *[WRONG] * (MAX_DRAFT - 1)])
    engine.step()
    caps = [machine.cap(name) for name in names]
    if pays:
        assert machine.most_drafts >= MAX_DRAFT // 2
        assert all(cap is None or cap >= MAX_DRAFT // 2 for cap in caps)
    else:
        assert machine.most_drafts == 0
        assert caps == [0] * 3
    engine.run()
    assert all(engine.text[name] == truth for name in names)


def test_plain_requests_do_not_pay_for_drafts() -> None:
    """Where a row is a tenth of a step, a plain one beside two sessions with drafts keeps its steps as they
    are; without it the drafts are verified.
    """
    longest = []
    for with_plain in (True, False):
        machine = Machine(0.1, 0.01)
        engine, truth = machine.engine, target_text(PROMPT, 120)
        for name in ("a", "b"):
            engine.open(name, PROMPT, 120, eager=True)
        if with_plain:
            engine.add("plain", PROMPT, 120)
        engine.step()
        most = 0
        for number in range(20):
            for name in ("a", "b")[: 1 + number % 2]:
                at = len(engine.text[name])
                tokens = truth[at : at + 3] if number % 3 else [truth[at], WRONG]
                engine.tell(name, draft(1 + 100 * number, 5 + at), tokens)
            engine.step()
            if number >= 17:
                most = max(most, machine.most_drafts)
        longest.append(most)
    assert longest[0] == 0
    assert longest[1] > 0


# -- hooks that raise -----------------------------------------------------------------------

BAD_DRAFT = AddDrafts("no number", 6, 0, True, None)  # type: ignore[arg-type]  # raises in the trie


class FragileSession(EngineSession):
    """Raises in the hook `fragile`, once it holds a draft."""

    fragile = ""

    def _break(self, hook: str) -> None:
        if hook == self.fragile and self.trie.num_live_ids:
            raise RuntimeError(f"this session breaks in {hook}")

    def wants_pass(self) -> bool:
        self._break("wants_pass")
        return super().wants_pass()

    def offer(self, limit: int) -> list[float]:
        self._break("offer")
        return super().offer(limit)

    def stage(self, limit: int) -> list[int]:
        self._break("stage")
        return super().stage(limit)

    def start_pass(self, num_drafts: int, now_s: float) -> None:
        self._break("start_pass")
        super().start_pass(num_drafts, now_s)

    def finish_pass(self, new_tokens: Sequence[int], now_s: float) -> None:
        self._break("finish_pass")
        super().finish_pass(new_tokens, now_s)


def breaking_in(hook: str) -> type[PipeSDScheduler]:
    """A scheduler whose sessions break there."""
    session = type("Session", (FragileSession,), {"fragile": hook})
    return type("Scheduler", (PipeSDScheduler,), {"new_session": session})


def go_wrong(engine: Harness) -> None:
    """Two sessions and a plain request run; "bad" gets a draft and breaks. The others must not notice."""
    truth = target_text(PROMPT, 12)
    engine.open("bad", PROMPT, 12)
    engine.open("good", PROMPT, 12, eager=True)
    engine.add("plain", PROMPT, 12)
    engine.step()
    engine.tell("bad", draft(1, 6), truth[1:4])
    engine.run()
    assert engine.failed == {"bad"}
    assert engine.finished == {"bad", "good", "plain"}
    assert engine.text["good"] == engine.text["plain"] == truth
    assert engine.text["bad"] == truth[: len(engine.text["bad"])]
    assert not engine.scheduler._sessions
    assert engine.used_blocks() == 0


@pytest.mark.parametrize("hook", ["wants_pass", "offer", "stage", "start_pass", "finish_pass"])
def test_a_session_that_breaks_ends_alone(hook: str) -> None:
    """Wherever it does: it ends with an error, what it said until then is right, and the engine goes on."""
    go_wrong(Harness(scheduler=breaking_in(hook)))


def test_a_session_that_breaks_alone_in_the_engine_still_ends() -> None:
    """The engine does not fall asleep over it."""
    engine = Harness(scheduler=breaking_in("finish_pass"))
    engine.open("bad", PROMPT, 12)
    engine.run()
    engine.tell("bad", draft(1, 6), target_text(PROMPT, 4)[1:])
    engine.run()
    assert engine.failed == {"bad"}
    assert not engine.scheduler.requests


@pytest.mark.parametrize("suspended", [False, True])
def test_a_bad_command_ends_its_session(suspended: bool) -> None:
    """Also one that holds no blocks; drafts that come after it mean nothing."""
    engine = Harness()
    engine.open("bad", PROMPT, 12)
    engine.open("good", [*PROMPT, 1], 12)
    engine.run()
    if suspended:
        engine.tell("bad", Suspend())
    engine.tell("bad", BAD_DRAFT)
    engine.tell("bad", draft(1, 6), [1])
    engine.run()
    assert engine.failed == engine.finished == {"bad"}
    truth = target_text([*PROMPT, 1], 12)
    engine.tell("good", draft(1, 7), truth[1:])
    engine.run()
    assert engine.text["good"] == truth


def test_a_session_that_cannot_open_ends_with_an_error() -> None:
    """Its edge is answered, instead of waiting for ever; the engine takes the next one."""

    def cannot(*args: object) -> EngineSession:
        raise RuntimeError("no session today")

    scheduler: type[PipeSDScheduler] = type("Scheduler", (PipeSDScheduler,), {"new_session": cannot})
    engine = Harness(scheduler=scheduler)
    engine.open("bad", PROMPT, 12)
    engine.add("plain", PROMPT, 3)
    engine.run()
    assert engine.failed == {"bad"}
    assert engine.text["plain"] == target_text(PROMPT, 3)


def test_bad_words_that_workers_have_no_room_for_end_their_session() -> None:
    """Before they reach a worker, where they would end the engine; vLLM checks the number of words alone."""
    engine = Harness()
    engine.add("bad", PROMPT, 12, OpenSession(), bad_words=[[7] * 40] * 100)
    engine.add("good", PROMPT, 3, OpenSession(eager=True), bad_words=[[7] * 40] * 10)
    assert not engine.scheduler.requests["bad"].sampling_params.bad_words_token_ids
    engine.run()
    assert engine.failed == {"bad"}
    assert engine.text["good"] == target_text(PROMPT, 3)


class Unstaged(PipeSDScheduler):
    """The staging itself is broken."""

    def _stage_drafts(self) -> None:
        raise RuntimeError("no staging today")


class Jammed(PipeSDScheduler):
    """Nobody is made way for."""

    def _free_seats(self) -> None:
        raise RuntimeError("no making way today")


@pytest.mark.parametrize("scheduler", [Unstaged, Jammed])
def test_without_the_hooks_about_all_sessions_everybody_is_served(scheduler: type[PipeSDScheduler]) -> None:
    """Sessions decode without drafts then, exactly; nobody is ended for what cannot be laid at their door."""
    engine = Harness(scheduler=scheduler)
    truth = target_text(PROMPT, 12)
    engine.open("s", PROMPT, 12)
    engine.add("plain", PROMPT, 12)
    while engine.finished != {"s", "plain"}:
        engine.tell(
            "s", draft(1 + len(engine.text["s"]), 5 + len(engine.text["s"])), truth[len(engine.text["s"]) :]
        )
        engine.step()
    assert engine.text["s"] == engine.text["plain"] == truth
    assert not engine.failed


TURN = 1
ROUNDS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(1, 12), st.booleans(), st.integers(0, 2)),
    min_size=1,
    max_size=12,
)


@pytest.fixture
def little_garbage() -> Iterator[None]:
    """`gc.collect` looks only at what is made from here on: vLLM's modules alone take it half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("little_garbage")
@pytest.mark.parametrize("scheduler", [PipeSDScheduler, AsyncPipeSDScheduler])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ROUNDS, min_size=1, max_size=4), st.sampled_from([9, 13, 200]), st.booleans())
def test_the_committed_stream_is_the_targets_whatever_is_drafted(
    scheduler: type[SchedulesSessions], sessions: list, num_blocks: int, eager: bool
) -> None:
    """Drafts right, wrong, stale, early, orphaned, branching, sent twice, in disorder or under used ids, in
    sessions that compete for blocks: every stream is a prefix of the target's own text, and ends complete."""
    engine = Harness(num_blocks=num_blocks, scheduler=scheduler)
    prompts = {f"s{i}": [11 + i] * (20 + 7 * i) for i in range(len(sessions))}
    edges = {name: LyingEdge(engine, name, prompt) for name, prompt in prompts.items()}
    for name, prompt in prompts.items():
        engine.open(name, prompt, 25, eager=eager)
    for step in range(max(map(len, sessions))):
        for name, rounds in zip(prompts, sessions, strict=True):
            if step < len(rounds):
                edges[name].send(*rounds[step])
        engine.run()
    for name, edge in edges.items():
        edge.finish()
        assert engine.text[name] == target_text(prompts[name], 25)
    assert not engine.scheduler._sessions
    gc.collect()


class LyingEdge:
    """An edge that knows the truth and lies about it in every way that the protocol lets it."""

    def __init__(self, engine: Harness, name: str, prompt: list[int]) -> None:
        self._engine = engine
        self._name = name
        self._drafts = DraftMaker(TURN, len(prompt), target_text(prompt, 60))

    def send(self, kind: str, length: int, verify: bool, steps: int) -> None:
        """Send one kind of drafts, as the service would, and let the engine take `steps`."""
        done = len(self._engine.text[self._name])
        for frame in self._drafts.frames(kind, length, done, verify=verify):
            if frame.turn == TURN and self._name not in self._engine.finished:
                command = AddDrafts(frame.first, frame.base, frame.anchor, frame.verify, frame.parents)
                self._engine.tell(self._name, command, frame.tokens)
        for _ in range(steps):
            if self._engine.has_work():
                self._engine.step()

    def finish(self) -> None:
        """Send the truth until the session ends."""
        while self._name not in self._engine.finished:
            self.send("right", MAX_DRAFT, True, 0)
            self._engine.run()
