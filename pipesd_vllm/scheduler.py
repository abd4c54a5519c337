"""vLLM's scheduler with sessions: requests that wait for drafts without costing a step.

Narrow hooks around `super()`, no upstream method copied:

- `add_request` reads later chunks of a resumable request as commands (`commands.py`).
- `schedule` hands each session its drafts as `spec_token_ids`; a *parked* session (computed,
  nothing to verify) is skipped and stands last in `running`, where vLLM looks first for KV blocks to take.
- `_handle_blocked_waiting_request` keeps a parked session that lost its blocks waiting, and takes a new
  grammar past the tokens of a session taken over.
- `update_from_output` moves the tries and adds the pass report to the outputs.

What is known of the sessions themselves is in `session_table.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from pipesd_vllm import compat
from pipesd_vllm.commands import Command, OpenSession, Suspend, unpack
from pipesd_vllm.own_time import Stopwatch
from pipesd_vllm.session_table import SessionTable

__all__ = ["PipeSDScheduler"]


class PipeSDScheduler(Scheduler):
    """Named in `--scheduler-cls`. Ordinary requests are scheduled exactly as before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = time.monotonic
        self._sessions = SessionTable(self._clock)
        self._own = Stopwatch(self._clock)

    # -- requests and commands ------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        command = unpack(request.sampling_params.extra_args if request.sampling_params else None)
        if command is None:
            super().add_request(request)
        elif isinstance(command, OpenSession):
            # From here on the request ends like any other; chunks after that are dropped below.
            request.resumable = False
            self._sessions.open(request, command)
            super().add_request(request)
        else:
            with self._own:
                self._apply(command, request)

    def _apply(self, command: Command, chunk: Request) -> None:
        if chunk.request_id not in self._sessions:
            return  # the session has ended; whatever is still under way for it means nothing
        if isinstance(command, Suspend):
            request = self.requests[chunk.request_id]
            if request.status == RequestStatus.RUNNING and self._sessions.is_parked(request):
                compat.preempt(self, request, self._clock())
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
        """Among those that vLLM counts: of a paused engine's waiting queue it counts none."""
        parked_running = sum(map(self._sessions.is_parked, self.running))
        if self._pause_state != PauseState.UNPAUSED:
            return parked_running
        return parked_running + sum(map(self._sessions.is_parked, self.waiting))

    def get_num_unfinished_requests(self) -> int:
        """Parked sessions do not count: an engine that only has those sleeps."""
        unfinished: int = super().get_num_unfinished_requests()
        if not self._sessions or not unfinished:
            return unfinished
        return max(0, unfinished - self._num_parked())

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        if self._sessions.is_parked(request):
            return False
        had_no_grammar = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        ready = bool(super()._handle_blocked_waiting_request(request))
        return ready and not (had_no_grammar and not self._catch_up(request))

    def _catch_up(self, request: Request) -> bool:
        """Take a new grammar past the tokens that a session taken over brings along; False: they break it."""
        committed = self._sessions.committed(request)
        if not committed:
            return True
        prompt = (request.prompt_token_ids or [])[: -len(committed)]
        compat.note_reasoning(self.structured_output_manager, request, prompt)
        if self.structured_output_manager.accept_tokens(request, committed):
            return True
        compat.fail_grammar(self, request)
        return False

    # -- a step ---------------------------------------------------------------------------

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        if not self._sessions:
            return super().schedule(throttle_prefills)
        with self._own:
            self._stage_drafts()
        output = super().schedule(throttle_prefills)
        with self._own:
            self._sessions.start_passes(output)
            self._make_way(output)
        return output

    def _stage_drafts(self) -> None:
        active: list[Request] = []
        parked: list[Request] = []
        for request in self.running:
            (parked if self._sessions.is_parked(request) else active).append(request)
        for request in active:
            drafts = self._sessions.stage(request, self.num_spec_tokens)
            if drafts is not None:
                # The grammar's masks of later positions need drafts that it accepts.
                request.spec_token_ids = self.structured_output_manager.validate_tokens(request, drafts)
        for request in parked:
            request.spec_token_ids = []
            compat.skip_next_step(self, request)
        # The tail is preempted first: parked sessions, the longest idle one last.
        parked.sort(key=self._sessions.last_active_s, reverse=True)
        self.running[:] = active + parked

    def _make_way(self, output: SchedulerOutput) -> None:
        """Free the longest idle parked session's blocks and seat if that is what a request waits for.

        One a step is enough: with a request waiting, the engine goes on stepping.
        """
        budget_left = output.total_num_scheduled_tokens < self.max_num_scheduled_tokens
        if self._pause_state != PauseState.UNPAUSED or not budget_left:
            return
        parked = [request for request in self.running if self._sessions.is_parked(request)]
        if parked and any(map(self._wants_room, self.waiting)):
            compat.preempt(self, min(parked, key=self._sessions.last_active_s), self._clock())

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
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(
            scheduler_output, model_runner_output
        )
        if stepped:
            with self._own:
                self._sessions.finish_passes(stepped)
            self._sessions.attach_reports(outputs, self._own.take() * 1e3)
            self._sessions.forget([request for request in stepped if request.is_finished()])
        return outputs
