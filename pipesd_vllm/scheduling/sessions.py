"""The sessions among a scheduler's requests: which are parked, what is staged for a step, what came of it.

Reads vLLM's requests and changes none; `scheduler.py` asks and acts. `Sessions.is_parked` says which sessions
are parked, and why.

Sessions are expendable, the engine is not: what a hook does for one session stands under `guard`, which ends
that session alone when something raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.request import Request, RequestStatus

from pipesd_vllm.scheduling.commands import AddDrafts, Command, DecodeAlone, OpenSession
from pipesd_vllm.scheduling.engine_session import EngineSession

__all__ = ["Sessions"]

logger = logging.getLogger("vllm.pipesd")


class Sessions:
    """One `EngineSession` for each request that is a session. `clock` in seconds."""

    def __init__(
        self, clock: Callable[[], float], new_session: Callable[..., EngineSession] = EngineSession
    ) -> None:
        self._sessions: dict[str, EngineSession] = {}
        self._failed: set[str] = set()
        self._last_error = ""
        self._clock = clock
        self._new_session = new_session

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._sessions

    def open(self, request: Request, command: OpenSession) -> None:
        """Make `request` a session."""
        self._sessions[request.request_id] = self._new_session(
            request.num_prompt_tokens, command.eager, self._clock(), command.num_committed
        )

    def apply(self, command: Command, chunk: Request) -> None:
        """Change the session by a command that came with a later `chunk` of its request.

        Here drafts enter the trie. `Suspend` is the scheduler's business, and `CloseSession` nobody's.
        """
        session = self._sessions[chunk.request_id]
        match command:
            case AddDrafts(first, base, anchor, verify, parents):
                session.trie.add(first, base, anchor, chunk.prompt_token_ids or [], parents)
                if verify:
                    session.release(self._clock())
            case DecodeAlone(frontier):
                session.decode_alone(frontier)
            case _:
                pass

    def forget(self, requests: Iterable[Request]) -> None:
        """Drop the sessions of requests that have ended; ordinary requests may be among them."""
        for request in requests:
            self._sessions.pop(request.request_id, None)

    def is_parked(self, request: Request) -> bool:
        """Whether `request` waits for its edge: a session that is computed but has nothing to verify.

        It is parked if it has its first token (the prompt's prefill never waits), nobody lets it decode by
        itself (`EngineSession.wants_pass`), and its KV is computed up to the last token or was taken away. A
        parked session takes no part in a step, gives its blocks and its seat to whoever waits, and does not
        keep the engine awake. It wakes when drafts are released or its patience runs out. Nothing is stored:
        the answer follows from the session and the request each time.
        """
        session = self._sessions.get(request.request_id)
        if session is None or request.num_output_tokens == 0:
            return False
        with self.guard(request.request_id):
            if session.wants_pass():
                return False
            computed: bool = request.num_computed_tokens >= request.num_tokens - 1
            return computed or bool(request.status == RequestStatus.PREEMPTED)
        return False

    def last_active_s(self, request: Request) -> float:
        """When the session's edge or the target last did something. Raises `KeyError` if it is no session."""
        return self._sessions[request.request_id].last_active_s

    def committed(self, request: Request) -> list[int]:
        """The tokens at the end of the prompt that were generated before (a session taken over)."""
        session = self._sessions.get(request.request_id)
        if session is None or not session.num_committed:
            return []
        return list(request.prompt_token_ids or [])[-session.num_committed :]

    def stage(self, request: Request, limit: int) -> list[int] | None:
        """At most `limit` drafts for the next step; None if it is no session or has more to compute first."""
        session = self._sessions.get(request.request_id)
        if session is None or request.num_tokens - request.num_computed_tokens != 1:
            return None
        room = request.max_tokens - request.num_output_tokens - 1
        return session.stage(min(limit, room))

    def start_passes(self, output: SchedulerOutput) -> None:
        """Note that a step was scheduled, with as many of the staged drafts as `output` says."""
        now_s = self._clock()
        for request_id in output.num_scheduled_tokens:
            session = self._sessions.get(request_id)
            if session is not None:
                with self.guard(request_id):
                    num_drafts = len(output.scheduled_spec_decode_tokens.get(request_id, ()))
                    session.start_pass(num_drafts, now_s)

    def finish_passes(self, stepped: Sequence[Request]) -> None:
        """Note that the step is done: what the target chose is among the requests' output tokens."""
        now_s = self._clock()
        for request in stepped:
            session = self._sessions.get(request.request_id)
            if session is None:
                continue  # vLLM has ended it in this very step (KV blocks that cannot be loaded)
            with self.guard(request.request_id):
                seen = session.frontier - request.num_prompt_tokens
                session.finish_pass(request.output_token_ids[seen:], now_s)

    def attach_reports(self, outputs: Mapping[int, EngineCoreOutputs], overhead_ms: float) -> None:
        """Add its pass report to each session's output; `overhead_ms` is the hooks' part of the step."""
        for batch in outputs.values():
            for output in batch.outputs:
                session = self._sessions.get(output.request_id)
                if session is None:
                    continue
                with self.guard(output.request_id):
                    session.report.overhead_ms = overhead_ms
                    output.kv_transfer_params = {
                        **(output.kv_transfer_params or {}),
                        **session.report.pack(),
                    }

    # -- failing --------------------------------------------------------------------------

    def guard(self, request_id: str | None = None) -> _Guard:
        """A context that lets no exception out: it ends the session whose hook raised it.

        Without `request_id` the hook is about all sessions, and the exception is only logged.
        """
        return _Guard(self, request_id)

    def fail(self, request_id: str | None, error: Exception) -> None:
        """Drop the session `request_id`; its request has to be ended with an error (`take_failed`)."""
        if request_id is not None:
            logger.error("the session %s is ended: %r", request_id, error, exc_info=error)
            self._sessions.pop(request_id, None)
            self._failed.add(request_id)
        elif repr(error) != self._last_error:  # a hook that fails may fail in every step
            self._last_error = repr(error)
            logger.error("a hook of pipesd was left out: %r", error, exc_info=error)

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
