"""vLLM's scheduler with sessions: requests that wait for drafts without costing a step.

Narrow hooks around `super()`, no upstream method copied:

- `add_request` reads later chunks of a resumable request as commands (`commands.py`); a command that gives a
  parked session something to do puts it back into vLLM's queues, behind whoever waits there.
- `schedule` hands each active session its drafts as `spec_token_ids`, as many as the verification budget
  (`budget.py`) allots it, and frees the seats that waiting requests need. Where KV blocks run out in the
  middle of a step, parked sessions lose theirs first.
- `update_from_output` moves the tries, parks the sessions that have nothing to do, and adds the pass reports
  to the outputs.
- `_handle_blocked_waiting_request` takes a new grammar past the tokens of a session taken over.
- `update_draft_token_ids` and `update_draft_token_ids_in_output` take the drafts of vLLM's own speculator, if
  there is one, where no edge's are.

An exception in a hook never reaches vLLM's loop, which would end the engine: the session it concerns ends
with an error, the others and plain requests go on (`Sessions.guard`). `sessions.py` knows the sessions, this
module acts on vLLM.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from pipesd_vllm import compat
from pipesd_vllm.fill_in import is_silent
from pipesd_vllm.scheduling.budget import Allotment, Claim, StepCosts, allot
from pipesd_vllm.scheduling.commands import Command, OpenSession, Suspend, unpack_command
from pipesd_vllm.scheduling.engine_session import EngineSession
from pipesd_vllm.scheduling.sessions import Sessions
from pipesd_vllm.scheduling.stopwatch import Clock, Stopwatch
from pipesd_vllm.target_kind import check_kv_cache

__all__ = ["AsyncPipeSDScheduler", "PipeSDScheduler", "make_scheduler"]

logger = logging.getLogger("vllm.pipesd")

_TOLERANCE: Final = 1.02
"""How much longer, as a factor, drafts may make a step that has requests without drafts in it."""
_UNKNOWN: Final = 8
"""Drafts that a step verifies, or as many as it has requests, while it is not known what they cost; of a
session that is alone up to twice as many as any step before had."""


class SchedulesSessions:
    """Mixin for vLLM's two schedulers; stands before one among the bases.

    Ordinary requests are scheduled as without it. Making one raises `UnsupportedVllmError` or
    `UnsupportedTargetError`, however vLLM was started.
    """

    has_budget = True
    """Whether drafts must be worth their rows; benchmarks compare it with verifying all."""
    new_session: Callable[..., EngineSession] = EngineSession
    """Makes the sessions; tests put another one here."""
    clock: Clock = time.monotonic
    """Seconds; vLLM makes the scheduler, so whoever has another clock puts it into a subclass."""

    # vLLM's, of the other base
    requests: dict[str, Request]
    running: list[Request]
    waiting: Any
    pause_state: Any
    max_num_active_reqs: int
    max_num_scheduled_tokens: int
    num_spec_tokens: int
    structured_output_manager: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        compat.check_version(compat.installed_version())
        super().__init__(*args, **kwargs)
        check_kv_cache(self.kv_cache_config)  # type: ignore[attr-defined]
        self._sessions = Sessions(self.clock, self.new_session)
        self._overhead = Stopwatch(self.clock)
        self._num_seats = self.max_num_active_reqs
        compilation = self.vllm_config.compilation_config  # type: ignore[attr-defined]
        self._costs = StepCosts(sorted(compilation.cudagraph_capture_sizes or ()))
        self._begun_s: dict[int, float] = {}
        """When the steps in flight were scheduled, by the `id` of their output."""
        self._ended_s = 0.0
        self._most_untried = _UNKNOWN
        """Drafts of a session alone that a step verifies at most while it is not known what they cost."""
        self._price = 0.0
        """What a draft had to be worth in the last step."""
        self._context = 0
        """KV entries that the last measured step read."""
        self._edges_alone_draft = is_silent(self.vllm_config.speculative_config)  # type: ignore[attr-defined]
        compat.when_blocks_run_out(self, self._evict_for_blocks)

    @property
    def num_sessions(self) -> int:
        """Sessions under way, parked ones among them."""
        return len(self._sessions)

    # -- requests and commands ------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        if not self._take_command(request):
            super().add_request(request)  # type: ignore[misc]
        self._requeue_failed()

    def _take_command(self, request: Request) -> bool:
        """Read the command that came with a request; False if the request itself is for vLLM to take."""
        with self._sessions.guard(request.request_id):
            command = unpack_command(request.sampling_params.extra_args if request.sampling_params else None)
            if isinstance(command, OpenSession):
                # From here on the request ends like any other; chunks after that are dropped below.
                request.resumable = False
                self._check(request)
                compat.set_reasoning(request, command.reasoning_ended, command.reasoning_parser_kwargs)
                self._sessions.open(request, command)
            elif command is not None:
                with self._overhead:
                    self._apply(command, request)
                return True
            return False
        request.resumable = False  # the next step ends it with an error
        return request.request_id in self.requests

    @staticmethod
    def _check(request: Request) -> None:
        """Raise `ValueError` for parameters that would end the engine in a worker, and take them out."""
        try:
            compat.check_bad_words(request.sampling_params)
        except ValueError:
            request.sampling_params = SamplingParams(max_tokens=1)
            raise

    def _apply(self, command: Command, chunk: Request) -> None:
        request_id = chunk.request_id
        if request_id not in self._sessions:
            # The session has ended; what is still under way for it means nothing.
            if request_id not in self.requests:
                compat.report_finished(self, chunk)
        elif isinstance(command, Suspend):
            self._suspend(request_id)
        else:
            self._sessions.apply(command, chunk)
            if self._sessions.wants_pass(request_id):
                self._wake(request_id)

    def _wake(self, request_id: str) -> None:
        """Put a parked session into vLLM's queues; one that has lost its seat stands behind who waits."""
        request = self._sessions.wake(request_id)
        if request is None:
            return
        if request.status == RequestStatus.RUNNING:
            self.running.append(request)
        else:
            self.waiting.add_request(request)

    def _suspend(self, request_id: str) -> None:
        request = self._sessions.suspend(request_id)
        if request is not None:
            compat.take_blocks(self, request, self.clock())

    def _requeue_failed(self) -> None:
        """Put parked sessions that failed back into vLLM's queues, so that a step comes and ends them."""
        for request_id in self._sessions.failed:
            self._wake(request_id)

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        finished: list[Request] = super().finish_requests(request_ids, finished_status)  # type: ignore[misc]
        self._sessions.forget(request.request_id for request in finished)
        return finished

    def has_finished_requests(self) -> bool:
        """vLLM's answer without the parked sessions.

        Where there is a KV connector, vLLM takes a request in none of its queues for one that has ended and
        whose blocks the connector still holds.
        """
        if not super().has_finished_requests():  # type: ignore[misc]
            return False
        in_queues = sum(self.get_request_counts())  # type: ignore[attr-defined]
        held = len(self.requests) - self._sessions.num_parked > in_queues
        return held or bool(self.finished_req_ids)  # type: ignore[attr-defined]

    def reset_prefix_cache(self, reset_running_requests: bool = False, *args: Any, **kwargs: Any) -> bool:
        """vLLM's, which takes the blocks of all running requests; those of parked sessions go first."""
        if reset_running_requests:
            for request_id in list(self._sessions.resident):
                self._suspend(request_id)
        return bool(super().reset_prefix_cache(reset_running_requests, *args, **kwargs))  # type: ignore[misc]

    # -- room for others ------------------------------------------------------------------

    def _free_seats(self) -> None:
        """Suspend as many resident sessions, the longest idle first, as waiting requests need seats.

        A resident session has its row in the workers, so it takes a seat from `running`.
        """
        resident = self._sessions.resident
        if not resident or self.pause_state != PauseState.UNPAUSED:
            return
        free = self._num_seats - len(self.running) - len(resident)
        missing = min(len(resident), compat.count_ready_waiting(self) - free)
        if missing <= 0:
            return
        for request_id in list(islice(resident, missing)):
            self._suspend(request_id)
        logger.info("%d parked sessions gave their seats to waiting requests", missing)

    def _evict_for_blocks(self) -> bool:
        """Take the KV blocks of the longest idle resident session; False if there is none."""
        for request_id in self._sessions.resident:
            self._suspend(request_id)
            logger.info("a parked session gave its KV blocks to a request: the cache is full")
            return True
        return False

    # -- a step ---------------------------------------------------------------------------

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        if not self._sessions:
            self._begun_s.clear()
            return super().schedule(throttle_prefills)  # type: ignore[misc]
        with self._sessions.guard(), self._overhead:
            self._stage_drafts()
            self._free_seats()
        self.max_num_active_reqs = self._num_seats - len(self._sessions.resident)
        try:
            output = super().schedule(throttle_prefills)  # type: ignore[misc]
        finally:
            self.max_num_active_reqs = self._num_seats
        with self._sessions.guard(), self._overhead:
            self._sessions.start_passes(output)
            self._begun_s[id(output)] = self.clock()
        self._requeue_failed()
        return output

    def _stage_drafts(self) -> None:
        staged: list[Request] = []
        claims: list[Claim] = []
        is_sole = len(self.running) == 1 and not self.waiting
        for request_id, request in self._sessions.active.items():
            with self._sessions.guard(request_id):
                if self._sessions.must_wait(request, self.num_spec_tokens, self._price, is_sole=is_sole):
                    compat.skip_next_step(self, request)
                else:
                    claims.append(self._sessions.offer(request, self.num_spec_tokens))
                    staged.append(request)
        counts, self._price = self._allotment(claims)
        for request, count in zip(staged, counts, strict=True):
            with self._sessions.guard(request.request_id):
                self._stage(request, count)

    def _stage(self, request: Request, num_drafts: int) -> None:
        if drafts := self._sessions.stage(request, num_drafts, self._price):
            # The grammar's masks of later positions need drafts that it accepts.
            request.spec_token_ids = self.structured_output_manager.validate_tokens(request, drafts)

    def _allotment(self, claims: Sequence[Claim]) -> Allotment:
        """How many drafts the next step takes of each claim; while prompts wait, half of its room at most."""
        if not self.has_budget:
            return Allotment([len(claim.survivals) for claim in claims], 0.0)
        num_plain = max(0, len(self.running) - len(self._sessions.active))
        rows = num_plain + len(claims)
        room = self.max_num_scheduled_tokens - rows
        room = room // 2 if self.waiting else room
        value = num_plain + sum(claim.weight for claim in claims)
        if not self._costs.is_known:
            untried = self._most_untried if rows == 1 else max(_UNKNOWN, rows)
            return allot(claims, value, lambda _: 1.0, min(room, untried))

        def seconds(num_drafts: int) -> float:
            return self._costs.seconds(rows + num_drafts, self._context)

        most_s = math.inf
        if num_plain or any(claim.streams for claim in claims):
            undrafted = num_plain + len(self._sessions.active) + len(self._sessions.resident)
            most_s = _TOLERANCE * seconds(max(0, undrafted - rows))
        return allot(claims, value, seconds, room, most_s)

    def _measure(self, output: SchedulerOutput) -> None:
        """Learn what a step took; those that compute prompts, too, say little of a row that verifies."""
        begun_s, ended_s, self._ended_s = self._begun_s.pop(id(output), None), self._ended_s, self.clock()
        rows = output.total_num_scheduled_tokens
        num_drafts = sum(map(len, output.scheduled_spec_decode_tokens.values()))
        if begun_s is None or not rows or rows != len(output.num_scheduled_tokens) + num_drafts:
            return
        self._context = sum(output.scheduled_cached_reqs.num_computed_tokens) + rows
        self._most_untried = max(self._most_untried, 2 * num_drafts)
        # With async scheduling a step is scheduled while the one before it still runs.
        self._costs.observe(rows, self._context, self._ended_s - max(begun_s, ended_s))

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        """vLLM's, which adds as many placeholders for its own speculator as the schedule by batch size says.

        vLLM drops that schedule under data parallelism.
        """
        if self._edges_alone_draft:
            scheduler_output.num_spec_tokens_to_schedule = 0
        super()._update_after_schedule(scheduler_output)  # type: ignore[misc]

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        for request_id in self._sessions.take_failed():
            self._sessions.forget([request_id])
            compat.fail_request(self, request_id)
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(  # type: ignore[misc]
            scheduler_output, model_runner_output
        )
        if self._begun_s:
            with self._sessions.guard(), self._overhead:
                self._measure(scheduler_output)
        if self._sessions.active:
            with self._sessions.guard():
                with self._overhead:
                    self._sessions.finish_passes(scheduler_output)
                    self._park_idle()
                drafts = scheduler_output.scheduled_spec_decode_tokens
                self._sessions.attach_reports(
                    outputs,
                    self._overhead.take() * 1e3,
                    sum(len(drafts.get(name, ())) for name in self._sessions.active),
                    len(self.running),
                )
            self._sessions.forget(
                [name for name, request in self._sessions.active.items() if request.is_finished()]
            )
            self._requeue_failed()
        return outputs

    def _park_idle(self) -> None:
        idle = self._sessions.take_idle()
        if idle:
            gone = {request.request_id for request in idle}
            self.running[:] = [request for request in self.running if request.request_id not in gone]

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        had_no_grammar = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        ready = bool(super()._handle_blocked_waiting_request(request))  # type: ignore[misc]
        return ready and not (had_no_grammar and not self._advance_grammar(request))

    def _advance_grammar(self, request: Request) -> bool:
        """Take a new grammar past the tokens that a session taken over brings; False if they break it."""
        if request.request_id not in self._sessions or not request.num_output_tokens:
            return True
        with self._sessions.guard(request.request_id):
            if self.structured_output_manager.accept_tokens(request, list(request.output_token_ids)):
                return True
            compat.fail_request(self, request.request_id)
        return False

    # -- drafts of vLLM's own speculator --------------------------------------------------

    def update_draft_token_ids(self, draft_token_ids: DraftTokenIds) -> None:
        if not self._edges_alone_draft:
            super().update_draft_token_ids(draft_token_ids)  # type: ignore[misc]

    def update_draft_token_ids_in_output(
        self, draft_token_ids: DraftTokenIds, scheduler_output: SchedulerOutput
    ) -> None:
        """vLLM's, but for steps in which an edge's drafts, which were checked before, are in the row."""
        if self._edges_alone_draft:
            return
        scheduled = scheduler_output.scheduled_spec_decode_tokens
        kept = [
            place
            for place, request_id in enumerate(draft_token_ids.req_ids)
            if (scheduled.get(request_id) or [-1])[0] < 0
        ]
        own = replace(
            draft_token_ids,
            req_ids=[draft_token_ids.req_ids[place] for place in kept],
            draft_token_ids=[draft_token_ids.draft_token_ids[place] for place in kept],
        )
        super().update_draft_token_ids_in_output(own, scheduler_output)  # type: ignore[misc]


class PipeSDScheduler(SchedulesSessions, Scheduler):
    """Where a step ends before the next is scheduled."""


class AsyncPipeSDScheduler(SchedulesSessions, AsyncScheduler):
    """Where the next step is scheduled while one runs."""


def make_scheduler(vllm_config: Any, **kwargs: Any) -> PipeSDScheduler | AsyncPipeSDScheduler:
    """vLLM's `--scheduler-cls`: the scheduler for how vLLM was started."""
    is_async = vllm_config.scheduler_config.async_scheduling
    return (AsyncPipeSDScheduler if is_async else PipeSDScheduler)(vllm_config=vllm_config, **kwargs)
