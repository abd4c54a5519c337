"""The sessions among a scheduler's requests, and which of them are parked.

A session is *active* while its request is in one of vLLM's queues, and *parked* while it waits for its edge:
then it is in none of them, takes part in no step, does not keep the engine awake, and no hook looks at it.
Parked with its KV blocks and its row in the workers it is *resident*; without them it is *suspended*, and its
tokens are computed anew when it comes back. A session changes its place only when it is opened, parked,
woken, evicted or forgotten; the cost of a step does not depend on how many are parked.

Reads vLLM's requests and changes none; `scheduler.py` asks and acts. Sessions are expendable, the engine is
not: what a hook does for one session stands under `guard`, which ends that one alone when something raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.request import Request

from pipesd_vllm.scheduling.budget import Claim, DraftRecord
from pipesd_vllm.scheduling.commands import AddDrafts, Command, DecodeAlone, OpenSession, SetEager
from pipesd_vllm.scheduling.engine_session import EngineSession

__all__ = ["Sessions"]

logger = logging.getLogger("vllm.pipesd")

_MAX_TENANTS = 1024
"""Those that opened no session for the longest time are forgotten beyond it."""


class Sessions:
    """One `EngineSession` for each request that is a session. `clock` in seconds."""

    def __init__(
        self, clock: Callable[[], float], new_session: Callable[..., EngineSession] = EngineSession
    ) -> None:
        self.active: dict[str, Request] = {}
        """Those in vLLM's queues."""
        self.resident: dict[str, Request] = {}
        """Those parked with their KV blocks, the longest idle first."""
        self.suspended: dict[str, Request] = {}
        """Those parked without."""
        self._sessions: dict[str, EngineSession] = {}
        self._records: dict[str, DraftRecord] = {}
        """What drafts of each tenant were worth."""
        self._failed: set[str] = set()
        self._last_error = ""
        self._clock = clock
        self._new_session = new_session

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._sessions

    @property
    def num_parked(self) -> int:
        """How many requests are in none of vLLM's queues because of us."""
        return len(self.resident) + len(self.suspended)

    # -- a session's life -----------------------------------------------------------------

    def open(self, request: Request, command: OpenSession) -> None:
        """Make `request`, which vLLM has not queued yet, a session.

        The tokens of a session taken over become output of the request, as those of a request that vLLM
        preempted: positions, penalties, `min_tokens` and `max_tokens` count them as generated.
        """
        if command.committed:
            request.append_output_token_ids(list(command.committed))
            request.take_prefill_stats()  # vLLM takes a first prefill for one of the prompt alone
        tenants = self._records.pop(command.tenant, None) or DraftRecord()
        self._records[command.tenant] = tenants  # the last one is the latest
        if len(self._records) > _MAX_TENANTS:
            del self._records[next(iter(self._records))]
        self._sessions[request.request_id] = self._new_session(
            request.num_tokens, command.eager, self._clock(), len(command.committed), tenants
        )
        self.active[request.request_id] = request

    def apply(self, command: Command, chunk: Request) -> None:
        """Change the session by a command that came with a later `chunk` of its request.

        Here drafts enter the trie. `Suspend` is the scheduler's business, and `CloseSession` nobody's.
        """
        session = self._sessions[chunk.request_id]
        match command:
            case AddDrafts():
                session.add(command, chunk.prompt_token_ids or [], self._clock())
            case DecodeAlone(frontier):
                session.decode_alone(frontier)
            case SetEager(eager):
                session.set_eager(eager)
            case _:
                pass

    def forget(self, request_ids: Iterable[str]) -> None:
        """Drop the sessions of requests that have ended; ordinary requests may be among them."""
        for request_id in request_ids:
            if self._sessions.pop(request_id, None) is not None:
                self._unplace(request_id)

    def _unplace(self, request_id: str) -> None:
        for place in (self.active, self.resident, self.suspended):
            place.pop(request_id, None)

    # -- parking --------------------------------------------------------------------------

    def wants_pass(self, request_id: str) -> bool:
        """Whether the session has something to verify, or may decode by itself."""
        session = self._sessions.get(request_id)
        return session is not None and session.wants_pass()

    def take_idle(self) -> list[Request]:
        """Park the active sessions that have nothing to do; the scheduler takes them out of `running`.

        A session is idle when the target has computed all of its tokens, nothing of it is in flight and
        nobody lets it go on. Its first token comes without the edge: the prompt's prefill never waits.
        """
        idle = []
        for request_id, request in self.active.items():
            with self.guard(request_id):
                if self._is_idle(request):
                    idle.append(request)
        for request in idle:
            del self.active[request.request_id]
            self.resident[request.request_id] = request
        return idle

    def _is_idle(self, request: Request) -> bool:
        session = self._sessions.get(request.request_id)
        if session is None or session.wants_pass() or request.num_in_flight_tokens or request.is_finished():
            return False
        if request.num_output_tokens <= session.num_committed:
            return False
        return bool(request.num_computed_tokens == request.num_tokens - 1)

    def wake(self, request_id: str) -> Request | None:
        """Make a parked session active; the scheduler queues the request. None if it was not parked."""
        request = self.resident.pop(request_id, None) or self.suspended.pop(request_id, None)
        if request is not None and request_id in self._sessions:
            self.active[request_id] = request
        return request

    def suspend(self, request_id: str) -> Request | None:
        """Note that a resident session loses its blocks, which the scheduler takes; None if it is not one."""
        request = self.resident.pop(request_id, None)
        if request is not None:
            self.suspended[request_id] = request
        return request

    # -- a step ---------------------------------------------------------------------------

    def must_wait(self, request: Request, limit: int, price: float, *, is_sole: bool = False) -> bool:
        """Whether the next step must pass over an active session.

        Drafts hang from the last committed token, so their step comes after the one before has ended. A
        session that decodes by itself and has no drafts, or none worth that, runs ahead as a plain request.
        `is_sole`: the engine has nothing else to compute, so a step can begin whenever drafts come.
        """
        session = self._sessions[request.request_id]
        if request.num_in_flight_tokens:
            return not session.runs_free(limit, price, sole_at_s=self._clock() if is_sole else None)
        is_computed = request.num_tokens - request.num_computed_tokens == 1
        return is_sole and is_computed and session.awaits_drafts(self._clock())

    def offer(self, request: Request, limit: int) -> Claim:
        """What at most `limit` drafts of the session are worth; none while there is more to compute first."""
        session = self._sessions[request.request_id]
        survivals: list[float] = []
        if request.num_tokens - request.num_computed_tokens == 1:
            survivals = session.offer(min(limit, request.max_tokens - request.num_output_tokens - 1))
        return Claim(survivals, 1.0 / session.record.pace, not survivals and session.record.streams)

    def stage(self, request: Request, num_drafts: int, price: float) -> list[int]:
        """The first `num_drafts` of those offered, for the next step; `price` as in `Allotment`."""
        session = self._sessions[request.request_id]
        session.report.cap = session.record.cap(price)
        return session.stage(num_drafts) if num_drafts else []

    def start_passes(self, output: SchedulerOutput) -> None:
        """Note that a step was scheduled, with as many of the staged drafts as `output` says."""
        now_s = self._clock()
        drafts = output.scheduled_spec_decode_tokens
        for request_id in self.active:
            if request_id in output.num_scheduled_tokens:
                with self.guard(request_id):
                    self._sessions[request_id].start_pass(len(drafts.get(request_id, ())), now_s)

    def finish_passes(self, output: SchedulerOutput) -> None:
        """Note that a step is done: what the target chose is among the requests' output tokens."""
        now_s = self._clock()
        for request_id, request in self.active.items():
            if request_id not in output.num_scheduled_tokens:
                continue
            with self.guard(request_id):
                session = self._sessions[request_id]
                seen = session.frontier - request.num_prompt_tokens
                session.finish_pass(request.output_token_ids[seen:], now_s)

    def attach_reports(
        self,
        outputs: Mapping[int, EngineCoreOutputs],
        overhead_ms: float,
        step_drafts: int = 0,
        num_running: int = 0,
    ) -> None:
        """Add its pass report to each session's output, with what is the step's.

        `overhead_ms` is the hooks' part of it, `step_drafts` what it verified; `num_running` requests are in
        vLLM's queue of those.
        """
        seats_taken, parked = num_running + len(self.resident), self.num_parked
        for batch in outputs.values():
            for output in batch.outputs:
                session = self._sessions.get(output.request_id)
                if session is None:
                    continue
                with self.guard(output.request_id):
                    report = session.report
                    report.overhead_ms, report.step_drafts = overhead_ms, step_drafts
                    report.seats_taken, report.parked = seats_taken, parked
                    output.kv_transfer_params = {
                        **(output.kv_transfer_params or {}),
                        **report.pack(),
                    }

    # -- failing --------------------------------------------------------------------------

    def guard(self, request_id: str | None = None) -> _Guard:
        """A context that lets no exception out: it ends the session whose hook raised it.

        Without `request_id` the hook is about all sessions, and the exception is only logged.
        """
        return _Guard(self, request_id)

    def fail(self, request_id: str | None, error: Exception) -> None:
        """Note that a session has to be ended with an error (`take_failed`): its hook raised `error`."""
        if request_id is not None:
            logger.error("the session %s is ended: %r", request_id, error, exc_info=error)
            self._failed.add(request_id)
        elif repr(error) != self._last_error:  # a hook that fails may fail in every step
            self._last_error = repr(error)
            logger.error("a hook of pipesd was left out: %r", error, exc_info=error)

    @property
    def failed(self) -> frozenset[str]:
        """The requests that have failed and are not ended yet."""
        return frozenset(self._failed)

    def take_failed(self) -> set[str]:
        """The requests that failed since the last call."""
        failed, self._failed = self._failed, set()
        return failed


class _Guard:
    """See `Sessions.guard`; a class, because a generator would cost more than most hooks."""

    __slots__ = ("_request_id", "_sessions")

    def __init__(self, sessions: Sessions, request_id: str | None) -> None:
        self._sessions = sessions
        self._request_id = request_id

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._sessions.fail(self._request_id, error)
        return True
