"""What a turn asks of the server, and what has come of it: enough to ask again where it broke off."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import msgspec

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

__all__ = ["ApiExchange", "Exchange", "Frame", "Stream", "TokenExchange", "finish_reason"]

Frame = Commit | Begun | Reply | Text

_STOP_STRING: Final = "stop_string"
_EVENT_END: Final = b"\n\n"
_BUSY: Final = (429, 503)


@dataclass(slots=True)
class Stream:
    """One of the answers that are asked for, as the server has committed to it."""

    chain: DraftChain
    prompt: Sequence[int] | None = None
    """None: not known yet."""
    request: GenerationRequest | None = None
    """The prompt and how the target continues it; None: not known, or nothing to draft from."""
    media: bytes = b""
    """Digest of the images and sounds in the prompt."""
    takes_drafts: bool = False
    """Whether the server takes drafts and controls for it now."""
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: Literal["stop", "length", "stop_string"] | None = None
    stop_reason: int | None = None

    @property
    def max_length(self) -> int:
        """Of the sequence; 0 if nothing is to be drafted."""
        request = self.request
        return 0 if request is None else len(request.prompt_token_ids) + request.sampling.max_tokens

    @property
    def num_committed(self) -> int:
        """How many `committed` there are."""
        return 0 if self.prompt is None else self.chain.frontier - len(self.prompt)

    @property
    def committed(self) -> list[int]:
        """Its tokens after the prompt."""
        return [] if self.prompt is None else self.chain.tokens[len(self.prompt) :]

    def resumed(self) -> CommittedStream:
        return CommittedStream(self.committed, self.logprobs, self.finish_reason, self.stop_reason)


class Exchange(Protocol):
    """One answer, or several at once, over all openings of its turn."""

    streams: list[Stream]
    """In order; the first is there from the beginning."""

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
    can_resume = True

    def __init__(self, request: GenerationRequest, chain: DraftChain | None = None) -> None:
        prompt = request.prompt_token_ids
        self._stream = Stream(chain or DraftChain(prompt), prompt, request, takes_drafts=True)
        self.streams = [self._stream]
        self.is_whole = False
        self._request = request

    @property
    def has_begun(self) -> bool:
        return bool(self._stream.committed)

    def opened(self, welcome: Welcome, turn: int, mode: Mode, patience_ms: int) -> Open:
        self._stream.chain.restart()
        return Open(
            turn=turn,
            prompt=list(self._request.prompt_token_ids),
            sampling=self._request.sampling,
            mode=mode,
            patience_ms=patience_ms,
            committed=self._stream.committed,
        )

    def apply(self, commit: Commit) -> CommitOutcome:
        outcome = self._stream.chain.apply(commit)
        self.is_whole = commit.finish_reason is not None
        return outcome

    def is_last(self, frame: Frame) -> bool:
        if not isinstance(frame, Commit) or frame.stream:
            raise CloudMisbehaved("the server answers what was not asked")
        return frame.finish_reason in self.ends


class ApiExchange:
    """The body of a request to the server's own API: `Ask`. Its answer is handed on byte by byte.

    Of a stream of events only whole ones are handed on, and counted for each choice: what another connection
    may leave out. Any other answer is handed on when it is whole.
    """

    ends: Collection[str] = frozenset((*FinishReason, _STOP_STRING))

    def __init__(self, asked: AskRequest, stats: GenerationStats) -> None:
        self.streams = [Stream(DraftChain(()))]
        self.is_drafted = True
        self.is_whole = False
        self._asked = asked
        self._stats = stats
        self._adapter = ""
        """The identity of the LoRA adapter that answers, which only its like can go on for."""
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
    def has_begun(self) -> bool:
        return self._has_delivered or any(stream.committed for stream in self.streams)

    @property
    def can_resume(self) -> bool:
        return self.is_drafted or not self._has_delivered

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first stream has ended, if it has."""
        reason = self.streams[0].finish_reason
        return None if reason is None else finish_reason(reason)

    @property
    def _has_delivered(self) -> bool:
        return bool(self._num_others or any(self._delivered))

    @property
    def _begun(self) -> list[Stream]:
        """The streams whose prompt is known."""
        return [stream for stream in self.streams if stream.prompt is not None]

    def opened(self, welcome: Welcome, turn: int, mode: Mode, patience_ms: int) -> Ask:
        if ASK not in welcome.features:
            raise VerifierTooOld(f"{welcome.model}'s server answers no requests to its API over a session")
        for stream in self.streams:
            stream.takes_drafts = False
            stream.chain.restart()
        self._inflater, self._pending = Inflater(), b""
        self._reply = None
        self._num_to_skip = self._num_others
        asked, prompt = self._asked, self.streams[0].prompt
        guess, resume = None, None
        if prompt is not None:
            guess = prompt_guess(prompt)
        if self.has_begun:
            held = [stream.resumed() for stream in self._begun]
            media = self.streams[0].media
            resume = Resume(list(prompt or ()), held, list(self._delivered), self._adapter, media)
        return Ask(turn, asked.path, asked.body, asked.request_id, mode, patience_ms, guess, resume)

    def is_last(self, frame: Frame) -> bool:
        return isinstance(frame, Text) and frame.last

    # -- tokens -----------------------------------------------------------------------------

    def begin(self, begun: Begun) -> bool:
        """Take the prompt of some streams; returns whether their `request`s are others by it.

        Raises `CloudMisbehaved` for streams out of order, or for another prompt in mid-answer.
        """
        self.is_drafted = self._stats.drafted = begun.drafted
        if not begun.drafted:
            self._stats.route_reason = NOT_DRAFTED + begun.reason
            return False
        self._adapter = begun.adapter
        is_new = self._is_new_prompt(begun)
        vocab_size = self.streams[0].chain.vocab_size
        # Ids beyond the vocabulary are the client's, and vLLM will refuse them.
        can_draft = begun.sampling is not None and max(begun.prompt, default=0) < vocab_size
        for number, seed in enumerate(begun.seeds, begun.first):
            if number == len(self.streams):
                self.streams.append(Stream(DraftChain((), vocab_size)))
            stream = self.streams[number]
            if is_new:
                stream.chain.begin(begun.prompt)
                stream.prompt, stream.request = begun.prompt, None
                if can_draft:
                    assert begun.sampling is not None
                    own = msgspec.structs.replace(begun.sampling, seed=seed)
                    stream.request = self._asked.continued(tuple(begun.prompt), own)
            stream.media = begun.media
            stream.takes_drafts = stream.finish_reason is None
        if begun.first == 0:
            self._stats.seed = begun.seeds[0]
        return is_new and can_draft

    def _is_new_prompt(self, begun: Begun) -> bool:
        known = len(self._begun)
        if begun.first < known:
            if begun.prompt in ([], self.streams[begun.first].prompt):
                return False
            if self.has_begun:
                raise CloudMisbehaved("the server begins with another prompt than before")
            for stream in self.streams[begun.first :]:
                stream.prompt = None
        elif begun.first > known:
            raise CloudMisbehaved("the server begins with streams out of order")
        return True

    def apply(self, commit: Commit) -> CommitOutcome:
        if commit.stream >= len(self._begun):
            raise CloudMisbehaved("the server commits to a stream that it has not begun")
        stream = self.streams[commit.stream]
        outcome = stream.chain.apply(commit)
        if outcome.logprobs is not None and outcome.new_tokens:
            stream.logprobs = [*(stream.logprobs or ()), *outcome.logprobs]
        if commit.finish_reason in self.ends:
            stream.finish_reason = commit.finish_reason  # type: ignore[assignment] # one of its literals
            stream.stop_reason = commit.stop_reason
            stream.takes_drafts = False
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
