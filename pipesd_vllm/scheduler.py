"""vLLM's scheduler with sessions: requests that wait for drafts without costing a step.

Narrow hooks around `super()`, no upstream method copied:

- `add_request` reads later chunks of a resumable request as commands (`commands.py`).
- `schedule` hands each session its drafts as `spec_token_ids`; a *parked* session (computed,
  nothing to verify) is skipped and stands last in `running`, where vLLM looks first for KV blocks to take.
- `_handle_blocked_waiting_request` keeps a parked session that lost its blocks waiting, and takes a new
  grammar past the tokens of a session taken over.
- `update_from_output` moves the tries and adds the pass report to the outputs.
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
from pipesd_vllm.commands import AddDrafts, Command, GoAlone, OpenSession, Suspend, unpack
from pipesd_vllm.engine_session import EngineSession
from pipesd_vllm.own_time import Stopwatch


class PipeSDScheduler(Scheduler):
    """Named in `--scheduler-cls`. Ordinary requests are scheduled exactly as before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sessions: dict[str, EngineSession] = {}
        self._clock = time.monotonic
        self._own = Stopwatch(self._clock)

    # -- requests and commands ------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        command = unpack(request.sampling_params.extra_args if request.sampling_params else None)
        if command is None:
            super().add_request(request)
        elif isinstance(command, OpenSession):
            # From here on the request ends like any other; chunks after that are dropped below.
            request.resumable = False
            session = EngineSession(
                request.num_prompt_tokens, command.eager, self._clock(), command.num_committed
            )
            self._sessions[request.request_id] = session
            super().add_request(request)
        else:
            with self._own:
                self._apply(command, request)

    def _apply(self, command: Command, chunk: Request) -> None:
        session = self._sessions.get(chunk.request_id)
        if session is None:
            return  # the session has ended; whatever is still under way for it means nothing
        match command:
            case AddDrafts(first, base, anchor, verify, parents):
                session.trie.add(first, base, anchor, chunk.prompt_token_ids or [], parents)
                if verify:
                    session.release(self._clock())
            case GoAlone(frontier):
                session.go_alone(frontier)
            case Suspend():
                request = self.requests[chunk.request_id]
                if request.status == RequestStatus.RUNNING and self._is_parked(request):
                    compat.preempt(self, request, self._clock())
            case _:
                pass

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        finished: list[Request] = super().finish_requests(request_ids, finished_status)
        for request in finished:
            self._sessions.pop(request.request_id, None)
        return finished

    # -- parking --------------------------------------------------------------------------

    def _is_parked(self, request: Request) -> bool:
        """A session that has its first token, is computed up to it, and has nothing to verify."""
        session = self._sessions.get(request.request_id)
        if session is None or request.num_output_tokens == 0 or session.wants_pass():
            return False
        computed: bool = request.num_computed_tokens >= request.num_tokens - 1
        return computed or bool(request.status == RequestStatus.PREEMPTED)

    def _num_parked(self) -> int:
        """Among those that vLLM counts: of a paused engine's waiting queue it counts none."""
        parked_running = sum(map(self._is_parked, self.running))
        if self._pause_state != PauseState.UNPAUSED:
            return parked_running
        return parked_running + sum(map(self._is_parked, self.waiting))

    def get_num_unfinished_requests(self) -> int:
        """Parked sessions do not count: an engine that only has those sleeps."""
        unfinished: int = super().get_num_unfinished_requests()
        if not self._sessions or not unfinished:
            return unfinished
        return max(0, unfinished - self._num_parked())

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        if self._is_parked(request):
            return False
        had_no_grammar = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        ready = bool(super()._handle_blocked_waiting_request(request))
        return ready and not (had_no_grammar and not self._catch_up(request))

    def _catch_up(self, request: Request) -> bool:
        """Take a new grammar past the tokens that a session taken over brings along; False: they break it."""
        session = self._sessions.get(request.request_id)
        if session is None or not session.num_committed:
            return True
        committed = list(request.prompt_token_ids or [])[-session.num_committed :]
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
            self._start_passes(output)
            self._make_way(output)
        return output

    def _stage_drafts(self) -> None:
        active: list[Request] = []
        parked: list[Request] = []
        for request in self.running:
            (parked if self._is_parked(request) else active).append(request)
        for request in active:
            session = self._sessions.get(request.request_id)
            if session is not None and request.num_tokens - request.num_computed_tokens == 1:
                room = request.max_tokens - request.num_output_tokens - 1
                drafts = session.stage(min(self.num_spec_tokens, room))
                # The grammar's masks of later positions need drafts that it accepts.
                request.spec_token_ids = self.structured_output_manager.validate_tokens(request, drafts)
        for request in parked:
            request.spec_token_ids = []
            compat.skip_next_step(self, request)
        # The tail is preempted first: parked sessions, the longest idle one last.
        parked.sort(key=self._last_active_s, reverse=True)
        self.running[:] = active + parked

    def _last_active_s(self, request: Request) -> float:
        return self._sessions[request.request_id].last_active_s

    def _start_passes(self, output: SchedulerOutput) -> None:
        now_s = self._clock()
        for request_id in output.num_scheduled_tokens:
            session = self._sessions.get(request_id)
            if session is not None:
                num_drafts = len(output.scheduled_spec_decode_tokens.get(request_id, ()))
                session.start_pass(num_drafts, now_s)

    def _make_way(self, output: SchedulerOutput) -> None:
        """Free the longest idle parked session's blocks and seat if that is what a request waits for.

        One a step is enough: with a request waiting, the engine goes on stepping.
        """
        budget_left = output.total_num_scheduled_tokens < self.max_num_scheduled_tokens
        if self._pause_state != PauseState.UNPAUSED or not budget_left:
            return
        parked = [request for request in self.running if self._is_parked(request)]
        if parked and any(map(self._wants_room, self.waiting)):
            compat.preempt(self, min(parked, key=self._last_active_s), self._clock())

    def _wants_room(self, request: Request) -> bool:
        return not self._is_parked(request) and not compat.is_blocked(self, request)

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
                self._finish_passes(stepped)
            self._attach_reports(outputs)
            self._forget_finished(stepped)
        return outputs

    def _finish_passes(self, stepped: list[Request]) -> None:
        now_s = self._clock()
        for request in stepped:
            session = self._sessions.get(request.request_id)
            if session is None:
                continue  # vLLM has ended it in this very step (KV blocks that cannot be loaded)
            seen = session.frontier - request.num_prompt_tokens
            session.finish_pass(request.output_token_ids[seen:], now_s)

    def _attach_reports(self, outputs: dict[int, EngineCoreOutputs]) -> None:
        own_ms = self._own.take() * 1e3
        for batch in outputs.values():
            for output in batch.outputs:
                session = self._sessions.get(output.request_id)
                if session is not None:
                    session.report.own_ms = own_ms
                    output.kv_transfer_params = {
                        **(output.kv_transfer_params or {}),
                        **session.report.pack(),
                    }

    def _forget_finished(self, stepped: list[Request]) -> None:
        for request in stepped:
            if request.is_finished():
                self._sessions.pop(request.request_id, None)
