"""One session's events on their way to the recorder: what the session loop calls."""

from __future__ import annotations

from edge_agent.sampling import DraftToken
from edge_agent.tracing.events import (
    Committed,
    Drafted,
    Opened,
    PromptKnown,
    RolledBack,
    Sent,
    SessionEnded,
    SessionStarted,
)
from edge_agent.tracing.recorder import TraceRecorder
from pipesd_vllm.wire import Commit, Draft

__all__ = ["SessionTrace"]


class SessionTrace:
    """Records one session. Call in the order of the session loop; times in seconds on its clock.

    With a recorder that is not enabled every call is one attribute read.
    """

    def __init__(self, recorder: TraceRecorder) -> None:
        self._recorder = recorder
        self._session = recorder.next_session()

    def started(self, now_s: float, request_id: str, prompt_len: int, *, policy: str, mode: str) -> None:
        """First of all: before anything is sent."""
        if self._recorder.enabled:
            self._recorder.record(SessionStarted(self._session, now_s, request_id, prompt_len, policy, mode))

    def begun(self, now_s: float, prompt_len: int) -> None:
        """The server told the prompt, of which `started` knew nothing."""
        if self._recorder.enabled:
            self._recorder.record(PromptKnown(self._session, now_s, prompt_len))

    def opened(self, sent_s: float, num_bytes: int) -> None:
        """An `Open` or `Ask` was sent (again, after a lost connection); `sent_s` taken before sending."""
        if self._recorder.enabled:
            self._recorder.record(Opened(self._session, sent_s, num_bytes))

    def drafted(
        self, started_s: float, ended_s: float, position: int, draft: DraftToken, *, taken: bool = True
    ) -> None:
        """A draft was made; `taken`: the session has a use for it."""
        if self._recorder.enabled:
            self._recorder.record(
                Drafted(
                    self._session,
                    started_s,
                    ended_s,
                    position,
                    draft.token_id,
                    draft.probability,
                    draft.source,
                    taken,
                )
            )

    def sent(self, sent_s: float, draft: Draft, num_bytes: int) -> None:
        """A `Draft` frame was sent; `sent_s` taken before sending."""
        if self._recorder.enabled:
            self._recorder.record(Sent.of(self._session, sent_s, draft, num_bytes))

    def committed(self, received_s: float, commit: Commit, num_bytes: int) -> None:
        """A `Commit` is being handled; `received_s` taken when the frame came in."""
        if self._recorder.enabled:
            self._recorder.record(Committed.of(self._session, received_s, commit, num_bytes))

    def rolled_back(self, now_s: float, position: int, num_discarded: int) -> None:
        """The worker reported that it took back its drafts from `position` on (`Rewound`)."""
        if self._recorder.enabled:
            self._recorder.record(RolledBack(self._session, now_s, position, num_discarded))

    def ended(self, now_s: float, reason: str) -> None:
        """Last of all, however the session ends. Puts what is buffered on disk."""
        if self._recorder.enabled:
            self._recorder.record(SessionEnded(self._session, now_s, reason))
