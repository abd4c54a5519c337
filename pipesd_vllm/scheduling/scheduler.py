"""vLLM's scheduler with sessions: requests that wait for drafts without costing a step.

Narrow hooks around `super()`, no upstream method copied:

- `add_request` reads later chunks of a resumable request as commands (`commands.py`).
- `schedule` hands each session its drafts as `spec_token_ids`; a *parked* session (`Sessions.is_parked`) is
  skipped and stands last in `running`, where vLLM looks first for KV blocks to take. After the step the
  longest idle one is evicted if a request waits.
- `_handle_blocked_waiting_request` keeps a parked session that lost its blocks waiting, and takes a new
  grammar past the tokens of a session taken over.
- `get_num_unfinished_requests` leaves parked sessions out, so that an engine with no others sleeps.
- `update_from_output` moves the tries and adds the pass reports to the outputs.
- `update_draft_token_ids` takes no drafts from workers.

An exception in a hook never reaches vLLM's loop, which would end the engine: the session it concerns ends
with an error, the others and plain requests go on (`Sessions.guard`). `sessions.py` knows the sessions, this
module acts on vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from pipesd_vllm import compat
from pipesd_vllm.scheduling.commands import Command, OpenSession, Suspend, unpack_command
from pipesd_vllm.scheduling.engine_session import EngineSession
from pipesd_vllm.scheduling.sessions import Sessions
from pipesd_vllm.scheduling.stopwatch import Clock, Stopwatch
from pipesd_vllm.target_kind import check_kv_cache
from pipesd_vllm.worker.proposer import proposes_nothing
from pipesd_vllm.worker.sampling_rule import has_rule

__all__ = ["PipeSDScheduler"]


class PipeSDScheduler(Scheduler):
    """vLLM's `--scheduler-cls`. Ordinary requests are scheduled as without it.

    Making one raises `UnsupportedVllmError` or `UnsupportedTargetError`, however vLLM was started.
    """

    new_session: Callable[..., EngineSession] = EngineSession
    """Makes the sessions; tests put another one here."""
    clock: Clock = time.monotonic
    """Seconds; vLLM makes the scheduler, so whoever has another clock puts it into a subclass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        compat.check_version(compat.installed_version())
        super().__init__(*args, **kwargs)
        check_kv_cache(self.kv_cache_config)
        self._sessions = Sessions(self.clock, self.new_session)
        self._overhead = Stopwatch(self.clock)
        self._workers_propose = not proposes_nothing(self.vllm_config.speculative_config)

    @property
    def num_sessions(self) -> int:
        """Sessions under way, parked ones among them."""
        return len(self._sessions)

    # -- requests and commands ------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        if not self._take_command(request):
            super().add_request(request)

    def _take_command(self, request: Request) -> bool:
        """Read the command that came with a request; False if the request itself is for vLLM to take."""
        with self._sessions.guard(request.request_id):
            command = unpack_command(request.sampling_params.extra_args if request.sampling_params else None)
            if isinstance(command, OpenSession):
                # From here on the request ends like any other; chunks after that are dropped below.
                request.resumable = False
                self._sessions.open(request, command)
            elif command is not None:
                with self._overhead:
                    self._apply(command, request)
                return True
            return False
        request.resumable = False  # the next step ends it with an error
        return request.request_id in self.requests

    def _apply(self, command: Command, chunk: Request) -> None:
        if chunk.request_id not in self._sessions:
            # The session has ended; what is still under way for it means nothing.
            if chunk.request_id not in self.requests:
                compat.report_finished(self, chunk)
        elif isinstance(command, Suspend):
            request = self.requests[chunk.request_id]
            if request.status == RequestStatus.RUNNING and self._sessions.is_parked(request):
                compat.preempt(self, request, self.clock())
        else:
            self._sessions.apply(command, chunk)

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        finished: list[Request] = super().finish_requests(request_ids, finished_status)
        self._sessions.forget(finished)
        return finished

    # -- parking --------------------------------------------------------------------------

    def _num_parked(self) -> int:
        """Parked sessions among the requests that vLLM counts: not those that wait while it is paused."""
        parked_running = sum(map(self._sessions.is_parked, self.running))
        if self._pause_state != PauseState.UNPAUSED:
            return parked_running
        return parked_running + sum(map(self._sessions.is_parked, self.waiting))

    def get_num_unfinished_requests(self) -> int:
        """vLLM's count without the parked sessions: an engine that has no other requests sleeps."""
        unfinished: int = super().get_num_unfinished_requests()
        if not self._sessions or not unfinished:
            return unfinished
        return max(0, unfinished - self._num_parked())

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        if self._sessions.is_parked(request):
            return False
        had_no_grammar = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        ready = bool(super()._handle_blocked_waiting_request(request))
        return ready and not (had_no_grammar and not self._advance_grammar(request))

    def _advance_grammar(self, request: Request) -> bool:
        """Take a new grammar past the tokens that a session taken over brings; False if they break it."""
        with self._sessions.guard(request.request_id):
            committed = self._sessions.committed(request)
            if not committed:
                return True
            prompt = (request.prompt_token_ids or [])[: -len(committed)]
            compat.note_reasoning(self.structured_output_manager, request, prompt)
            if self.structured_output_manager.accept_tokens(request, committed):
                return True
            compat.fail_request(self, request.request_id)
        return False

    # -- a step ---------------------------------------------------------------------------

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        if not self._sessions:
            return super().schedule(throttle_prefills)
        with self._sessions.guard(), self._overhead:
            self._stage_drafts()
        output = super().schedule(throttle_prefills)
        with self._sessions.guard(), self._overhead:
            self._sessions.start_passes(output)
            self._evict_for_waiting(output)
        return output

    def _stage_drafts(self) -> None:
        """Attach each session's drafts and move the parked sessions to the tail of `running`.

        vLLM's requests change only at the end: if something raises before, the step has no drafts.
        """
        active: list[Request] = []
        parked: list[Request] = []
        for request in self.running:
            (parked if self._sessions.is_parked(request) else active).append(request)
        staged: list[tuple[Request, list[int]]] = [(request, []) for request in parked]
        for request in active:
            with self._sessions.guard(request.request_id):
                drafts = self._sessions.stage(request, self.num_spec_tokens)
                if drafts is not None:
                    # The grammar's masks of later positions need drafts that it accepts.
                    valid = self.structured_output_manager.validate_tokens(request, drafts)
                    staged.append((request, valid))
        # vLLM preempts from the tail: parked sessions stand there, the longest idle one last.
        parked.sort(key=self._sessions.last_active_s, reverse=True)
        for request, drafts in staged:
            request.spec_token_ids = drafts
        for request in parked:
            compat.skip_next_step(self, request)
        self.running[:] = active + parked

    def _evict_for_waiting(self, output: SchedulerOutput) -> None:
        """Take the blocks and the seat of the longest idle parked session if a request waits for them.

        One eviction a step is enough: while a request waits, the engine goes on stepping.
        """
        budget_left = output.total_num_scheduled_tokens < self.max_num_scheduled_tokens
        if self._pause_state != PauseState.UNPAUSED or not budget_left:
            return
        parked = [request for request in self.running if self._sessions.is_parked(request)]
        if parked and any(map(self._wants_room, self.waiting)):
            compat.preempt(self, min(parked, key=self._sessions.last_active_s), self.clock())

    def _wants_room(self, request: Request) -> bool:
        return not self._sessions.is_parked(request) and not compat.is_blocked(self, request)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        stepped = [
            self.requests[request_id]
            for request_id in scheduler_output.num_scheduled_tokens
            if request_id in self._sessions and request_id in self.requests
        ]
        with self._sessions.guard():
            self._end_unsampled(model_runner_output)
        for request_id in self._sessions.take_failed():
            compat.fail_request(self, request_id)
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(
            scheduler_output, model_runner_output
        )
        if stepped:
            with self._sessions.guard():
                with self._overhead:
                    self._sessions.finish_passes(stepped)
                self._sessions.attach_reports(outputs, self._overhead.take() * 1e3)
            self._sessions.forget([request for request in stepped if request.is_finished()])
        return outputs

    def _end_unsampled(self, result: ModelRunnerOutput) -> None:
        """End the requests that the workers could not sample: no token, or -1, where one is due."""
        for request_id, tokens in zip(result.req_ids, result.sampled_token_ids, strict=False):
            if tokens and tokens[0] >= 0:
                continue
            request = self.requests.get(request_id)
            if request is None or request.is_prefill_chunk or not has_rule(request.sampling_params):
                continue
            tokens.clear()
            compat.fail_request(self, request_id)

    # -- drafts from workers --------------------------------------------------------------

    def update_draft_token_ids(self, draft_token_ids: DraftTokenIds) -> None:
        """Take the workers' drafts, unless our proposer is in place, which proposes nothing.

        vLLM's runner (V1) then has zeros for every request once one is near the context limit.
        """
        if self._workers_propose:
            super().update_draft_token_ids(draft_token_ids)

    def update_draft_token_ids_in_output(
        self, draft_token_ids: DraftTokenIds, scheduler_output: SchedulerOutput
    ) -> None:
        """Take the workers' drafts as above; those in `scheduler_output` came from the edges."""
        if self._workers_propose:
            super().update_draft_token_ids_in_output(draft_token_ids, scheduler_output)
