"""What a turn asks of the server, and what has come of it: enough to ask again where it broke off."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from edge_agent.api import (
    NOT_DRAFTED,
    AnswerHead,
    AnswerText,
    AskRequest,
    FinishReason,
    GenerationRequest,
    GenerationStats,
)
from edge_agent.control import CommitOutcome
from edge_agent.errors import CloudMisbehaved, CloudOverloaded, CloudRefused, CloudUnreachable, VerifierTooOld
from edge_agent.session.chain import DraftChain
from pipesd_vllm.wire import (
    ASK,
    Ask,
    Begun,
    Commit,
    CommittedStream,
    Inflater,
    Mode,
    Open,
    Reply,
    Resume,
    Text,
    TokenLogprobs,
    Welcome,
    prompt_guess,
)

__all__ = ["ApiExchange", "Exchange", "Frame", "TokenExchange", "finish_reason"]

Frame = Commit | Begun | Reply | Text

_STOP_STRING: Final = "stop_string"
_EVENT_END: Final = b"\n\n"
_BUSY: Final = (429, 503)


class Exchange(Protocol):
    """One answer, over all openings of its turn."""

    chain: DraftChain
    """Of the stream that is drafted for."""
    request: GenerationRequest | None
    """The prompt and how the target continues it, once that is known."""

    ends: Collection[str]
    """Finish reasons of a whole stream; any other leaves it unfinished."""

    @property
    def has_begun(self) -> bool:
        """Whether something has come that only the same target can continue."""
        ...

    @property
    def can_resume(self) -> bool:
        """Whether another connection can continue it."""
        ...

    @property
    def takes_drafts(self) -> bool:
        """Whether the server takes drafts and controls for it now."""
        ...

    def opened(self, welcome: Welcome, turn: int, mode: Mode, patience_ms: int) -> Open | Ask:
        """The frame that starts the turn, or starts it again, on a connection with that `welcome`.

        Raises `VerifierTooOld`.
        """
        ...

    def apply(self, commit: Commit) -> CommitOutcome:
        """Take a commit, of whatever stream. Raises `CloudMisbehaved` as `DraftChain.apply`."""
        ...

    def is_last(self, frame: Frame) -> bool:
        """Whether no frame follows. Raises `CloudMisbehaved` for one that was not asked for."""
        ...


class TokenExchange:
    """Token ids to continue: `Open`."""

    ends: Collection[str] = frozenset(FinishReason)
    takes_drafts = True
    can_resume = True

    def __init__(self, request: GenerationRequest, chain: DraftChain | None = None) -> None:
        self.request: GenerationRequest | None = request
        self.chain = chain or DraftChain(request.prompt_token_ids)
        self.is_whole = False
        self._request = request

    @property
    def max_length(self) -> int:
        return len(self._request.prompt_token_ids) + self._request.sampling.max_tokens

    @property
    def has_begun(self) -> bool:
        return self.chain.frontier > len(self._request.prompt_token_ids)

    def opened(self, welcome: Welcome, turn: int, mode: Mode, patience_ms: int) -> Open:
        prompt = list(self._request.prompt_token_ids)
        committed = self.chain.tokens[len(prompt) :]
        return Open(
            turn=turn,
            prompt=prompt,
            sampling=self._request.sampling,
            mode=mode,
            patience_ms=patience_ms,
            committed=committed,
        )

    def apply(self, commit: Commit) -> CommitOutcome:
        outcome = self.chain.apply(commit)
        self.is_whole = commit.finish_reason is not None
        return outcome

    def is_last(self, frame: Frame) -> bool:
        if not isinstance(frame, Commit) or frame.stream:
            raise CloudMisbehaved("the server answers what was not asked")
        return frame.finish_reason in self.ends


@dataclass(slots=True)
class _Stream:
    """What one stream's commits said beside its tokens."""

    logprobs: list[TokenLogprobs] | None = None
    finish_reason: Literal["stop", "length", "stop_string"] | None = None
    stop_reason: int | None = None


class ApiExchange:
    """The body of a request to the server's own API: `Ask`. Its answer is handed on byte by byte.

    Of a stream of events only whole ones are handed on, and counted for each choice: what another connection
    may leave out. Any other answer is handed on when it is whole.
    """

    ends: Collection[str] = frozenset((*FinishReason, _STOP_STRING))

    def __init__(self, asked: AskRequest, stats: GenerationStats) -> None:
        self.request: GenerationRequest | None = None
        self.chain = DraftChain(())
        self.takes_drafts = False
        self.is_drafted = True
        self.is_whole = False
        self._asked = asked
        self._stats = stats
        self._chains = [self.chain]
        self._streams = [_Stream()]
        self._prompts: list[list[int]] = []
        """Of the streams, in order; empty before the first `Begun`."""
        self._delivered: list[int] = []
        """Events of each choice that were handed on."""
        self._num_others = 0
        """Events of no choice that were handed on; `_num_to_skip` of them will come again."""
        self._num_to_skip = 0
        self._inflater = Inflater()
        self._reply: Reply | None = None
        self._has_told_head = False
        self._pending = b""

    @property
    def max_length(self) -> int:
        request = self.request
        return 0 if request is None else len(request.prompt_token_ids) + request.sampling.max_tokens

    @property
    def has_begun(self) -> bool:
        return self._has_delivered or any(
            chain.frontier > len(prompt) for chain, prompt in zip(self._chains, self._prompts, strict=False)
        )

    @property
    def can_resume(self) -> bool:
        return self.is_drafted or not self._has_delivered

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the stream that is drafted for has ended, if it has."""
        reason = self._streams[0].finish_reason
        return None if reason is None else finish_reason(reason)

    @property
    def _has_delivered(self) -> bool:
        return bool(self._num_others or any(self._delivered))

    def opened(self, welcome: Welcome, turn: int, mode: Mode, patience_ms: int) -> Ask:
        if ASK not in welcome.features:
            raise VerifierTooOld(f"{welcome.model}'s server answers no requests to its API over a session")
        self.takes_drafts = False
        self._inflater, self._pending = Inflater(), b""
        self._reply = None
        self._num_to_skip = self._num_others
        asked = self._asked
        resume = self._resume() if self.has_begun else None
        guess = prompt_guess(self._prompts[0]) if self._prompts else None
        return Ask(turn, asked.path, asked.body, asked.request_id, mode, patience_ms, guess, resume)

    def _resume(self) -> Resume:
        streams = [
            CommittedStream(
                chain.tokens[len(prompt) :], stream.logprobs, stream.finish_reason, stream.stop_reason
            )
            for chain, prompt, stream in zip(self._chains, self._prompts, self._streams, strict=True)
        ]
        return Resume(self._prompts[0], streams, list(self._delivered))

    def is_last(self, frame: Frame) -> bool:
        return isinstance(frame, Text) and frame.last

    # -- tokens -----------------------------------------------------------------------------

    def begin(self, begun: Begun) -> bool:
        """Take the prompt of some streams; returns whether `request` is another one by it.

        Raises `CloudMisbehaved` for streams out of order, or for another prompt in mid-answer.
        """
        self.is_drafted = self._stats.drafted = begun.drafted
        if not begun.drafted:
            self._stats.route_reason = NOT_DRAFTED + begun.reason
            return False
        if begun.first == 0:
            self.takes_drafts = self._streams[0].finish_reason is None
        if begun.first < len(self._prompts):
            if begun.prompt in ([], self._prompts[begun.first]):
                return False
            if self.has_begun:
                raise CloudMisbehaved("the server begins with another prompt than before")
            del self._prompts[begun.first :]
        if begun.first != len(self._prompts):
            raise CloudMisbehaved("the server begins with streams out of order")
        for number in range(begun.first, begun.first + len(begun.seeds)):
            if number >= len(self._chains):
                self._chains.append(DraftChain(()))
                self._streams.append(_Stream())
            self._chains[number].vocab_size = self.chain.vocab_size
            self._chains[number].begin(begun.prompt)
            self._prompts.append(begun.prompt)
        if begun.first or begun.sampling is None or max(begun.prompt, default=0) >= self.chain.vocab_size:
            return False  # nothing to draft from; such ids are the client's, and vLLM will refuse them
        self._stats.seed = begun.seeds[0]
        self.request = self._asked.continued(tuple(begun.prompt), begun.sampling)
        return True

    def apply(self, commit: Commit) -> CommitOutcome:
        if commit.stream >= len(self._prompts):
            raise CloudMisbehaved("the server commits to a stream that it has not begun")
        outcome = self._chains[commit.stream].apply(commit)
        stream = self._streams[commit.stream]
        if outcome.logprobs is not None and outcome.new_tokens:
            stream.logprobs = [*(stream.logprobs or ()), *outcome.logprobs]
        if commit.finish_reason in self.ends:
            stream.finish_reason = commit.finish_reason  # type: ignore[assignment] # one of its literals
            stream.stop_reason = commit.stop_reason
        if self._streams[0].finish_reason is not None:
            self.takes_drafts = False
        return outcome

    # -- the answer -------------------------------------------------------------------------

    def told(self, frame: Reply | Text) -> Iterator[AnswerHead | AnswerText]:
        """What the client gets by `frame`.

        Raises `CloudOverloaded` if the server is too busy to begin, `CloudUnreachable` or `CloudRefused` if
        it does not go on with an answer that was begun elsewhere, `CloudMisbehaved`.
        """
        if isinstance(frame, Reply):
            yield from self._on_reply(frame)
            return
        if self._reply is None:
            raise CloudMisbehaved("the server's answer has no head")
        try:
            self._pending += self._inflater.add(frame.data)
        except zlib.error as error:
            raise CloudMisbehaved(f"the server's answer cannot be unpacked: {error}") from error
        if _has_events(self._reply):
            *events, self._pending = self._pending.split(_EVENT_END)
            if data := b"".join(event + _EVENT_END for event in events if self._is_new(event)):
                yield AnswerText(data)
        elif frame.last:
            self._check_whole(self._reply.status)
            yield AnswerHead(self._reply.status, self._stats)
            yield AnswerText(self._pending)
        self.is_whole = frame.last

    def _on_reply(self, reply: Reply) -> Iterator[AnswerHead]:
        self._reply = reply
        if _has_events(reply) and not self._has_told_head:
            self._has_told_head = True
            yield AnswerHead(reply.status, self._stats)

    def _check_whole(self, status: int) -> None:
        if status in _BUSY:
            raise CloudOverloaded(_message(self._pending))
        if self._has_delivered:
            message = f"another server does not go on (HTTP {status}): {_message(self._pending)}"
            raise CloudUnreachable(message) if status >= 500 else CloudRefused("not_resumable", message)

    def _is_new(self, event: bytes) -> bool:
        choice = _choice_of(event)
        if choice is None:
            if self._num_to_skip:
                self._num_to_skip -= 1
                return False
            self._num_others += 1
            return True
        self._delivered += [0] * (choice + 1 - len(self._delivered))
        self._delivered[choice] += 1
        return True


def finish_reason(reason: str) -> FinishReason:
    """The wire's finish reason of a whole stream in the API's words."""
    return FinishReason.STOP if reason == _STOP_STRING else FinishReason(reason)


def _has_events(reply: Reply) -> bool:
    types = (value for name, value in reply.headers if name.lower() == "content-type")
    return next(types, "").startswith("text/event-stream")


def _choice_of(event: bytes) -> int | None:
    """The choice that an event is of; None if it is of none: token counts, an error, the end."""
    try:
        choice = json.loads(event.removeprefix(b"data: "))["choices"][0]["index"]
    except (ValueError, LookupError, TypeError):
        return None
    return choice if isinstance(choice, int) and choice >= 0 else None


def _message(body: bytes) -> str:
    detail: Any = None
    with suppress(ValueError, AttributeError):
        detail = json.loads(body).get("error")
    return str(
        detail["message"] if isinstance(detail, dict) and "message" in detail else detail or body[:200]
    )
