"""The sessions among a scheduler's requests: who is parked, what is staged for a step, what came of it.

Reads vLLM's requests and changes none. It asks nothing of the scheduler; that acts on the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.request import Request, RequestStatus

from pipesd_vllm.commands import AddDrafts, Command, GoAlone, OpenSession
from pipesd_vllm.engine_session import EngineSession

__all__ = ["SessionTable"]


class SessionTable:
    """One `EngineSession` for each request that is a session. `clock` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._sessions: dict[str, EngineSession] = {}
        self._clock = clock

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._sessions

    def open(self, request: Request, command: OpenSession) -> None:
        """From here on `request` is a session."""
        self._sessions[request.request_id] = EngineSession(
            request.num_prompt_tokens, command.eager, self._clock(), command.num_committed
        )

    def apply(self, command: Command, chunk: Request) -> None:
        """What concerns the session itself in a command that came with a later `chunk` of its request."""
        session = self._sessions[chunk.request_id]
        match command:
            case AddDrafts(first, base, anchor, verify, parents):
                session.trie.add(first, base, anchor, chunk.prompt_token_ids or [], parents)
                if verify:
                    session.release(self._clock())
            case GoAlone(frontier):
                session.go_alone(frontier)
            case _:
                pass

    def forget(self, requests: Iterable[Request]) -> None:
        """They have ended; those that are no sessions may be among them."""
        for request in requests:
            self._sessions.pop(request.request_id, None)

    def is_parked(self, request: Request) -> bool:
        """A session that has its first token, is computed up to it, and has nothing to verify."""
        session = self._sessions.get(request.request_id)
        if session is None or request.num_output_tokens == 0 or session.wants_pass():
            return False
        computed: bool = request.num_computed_tokens >= request.num_tokens - 1
        return computed or bool(request.status == RequestStatus.PREEMPTED)

    def last_active_s(self, request: Request) -> float:
        """When its edge or the target last did something. Raises `KeyError` if it is no session."""
        return self._sessions[request.request_id].last_active_s

    def committed(self, request: Request) -> list[int]:
        """The tokens at the end of its prompt that were generated before (a session taken over)."""
        session = self._sessions.get(request.request_id)
        if session is None or not session.num_committed:
            return []
        return list(request.prompt_token_ids or [])[-session.num_committed :]

    def stage(self, request: Request, most: int) -> list[int] | None:
        """At most `most` drafts for the next step; None if it is no session or has more to compute first."""
        session = self._sessions.get(request.request_id)
        if session is None or request.num_tokens - request.num_computed_tokens != 1:
            return None
        room = request.max_tokens - request.num_output_tokens - 1
        return session.stage(min(most, room))

    def start_passes(self, output: SchedulerOutput) -> None:
        """A step was scheduled, with as many of the staged drafts as `output` says."""
        now_s = self._clock()
        for request_id in output.num_scheduled_tokens:
            session = self._sessions.get(request_id)
            if session is not None:
                num_drafts = len(output.scheduled_spec_decode_tokens.get(request_id, ()))
                session.start_pass(num_drafts, now_s)

    def finish_passes(self, stepped: Sequence[Request]) -> None:
        """The step is done: what the target chose is among the requests' output tokens."""
        now_s = self._clock()
        for request in stepped:
            session = self._sessions.get(request.request_id)
            if session is None:
                continue  # vLLM has ended it in this very step (KV blocks that cannot be loaded)
            seen = session.frontier - request.num_prompt_tokens
            session.finish_pass(request.output_token_ids[seen:], now_s)

    def attach_reports(self, outputs: Mapping[int, EngineCoreOutputs], own_ms: float) -> None:
        """Add the pass report of each session to its output; `own_ms`: the plugin's own part of the step."""
        for batch in outputs.values():
            for output in batch.outputs:
                session = self._sessions.get(output.request_id)
                if session is not None:
                    session.report.own_ms = own_ms
                    output.kv_transfer_params = {
                        **(output.kv_transfer_params or {}),
                        **session.report.pack(),
                    }
