"""A verifier in memory, for tests of everything above the network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from edge_agent.errors import CloudError, CloudUnreachable
from pipesd_vllm.wire import (
    PROTOCOL_VERSION,
    Cancel,
    Commit,
    Control,
    Downstream,
    Draft,
    Fingerprint,
    Limits,
    Mode,
    Open,
    Upstream,
    Welcome,
    decode_downstream,
    decode_upstream,
    encode,
)

NextToken = Callable[[Sequence[int]], int]

_STEP_S: Final = 0.03
"""Between tokens of a server that was told to go alone."""


def fake_welcome(fingerprint: Fingerprint, *, max_model_len: int = 4096) -> Welcome:
    """A first frame for a vocabulary of `fingerprint.num_tokens`."""
    limits = Limits(max_frame_bytes=1 << 20, max_draft_tokens=256, max_drafts=16)
    return Welcome(
        PROTOCOL_VERSION, "fake-target", max_model_len, fingerprint.num_tokens, fingerprint, limits
    )


class FakeTransport:
    """`Transport` whose other end is a target given as a function from tokens to the next token.

    Keeps one chain, verifies it when asked, and commits as a real verifier does: the accepted
    drafts plus one token of its own. `commits_before_loss` cuts the line.
    """

    def __init__(self, next_token: NextToken, welcome: Welcome, *, commits_before_loss: int = -1) -> None:
        self.sent: list[Upstream] = []
        self._next_token = next_token
        self._welcome = welcome
        self._frames: asyncio.Queue[Downstream | CloudError] = asyncio.Queue()
        self._frames.put_nowait(welcome)
        self._commits_left = commits_before_loss
        self._open = True
        self._turn: Open | None = None
        self._tokens: list[int] = []
        self._pending: list[int] = []
        self._goes_alone = False
        self._stepping: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._open

    async def send(self, message: Upstream) -> int:
        if not self._open:
            raise CloudUnreachable("the connection to the verifier was lost")
        data = encode(message)
        self.sent.append(decode_upstream(data))
        match message:
            case Open():
                self._start(message)
            case Draft():
                self._verify(message)
            case Control():
                self._control(message)
            case Cancel():
                self._turn = None
        return len(data) + 6

    async def receive(self) -> tuple[Downstream, int]:
        frame = await self._frames.get()
        if isinstance(frame, CloudError):
            self._open = False
            raise frame
        data = encode(frame)
        return decode_downstream(data), len(data) + 2

    async def ping(self, num_bytes: int) -> float:
        return 1e-3

    async def close(self) -> None:
        self._open = False

    def push(self, frame: Downstream | CloudError) -> None:
        """Have the server say `frame` (or lose the connection) now."""
        self._frames.put_nowait(frame)

    def _control(self, control: Control) -> None:
        if self._turn is None or control.turn != self._turn.turn:
            return
        if control.mode is not None:
            self._goes_alone = False
            if control.mode is Mode.LATENCY:
                self._decode_to_the_end()
        if control.alone:
            self._goes_alone = True
            self._stepping = asyncio.create_task(self._step_alone(control.turn))

    async def _step_alone(self, turn: int) -> None:
        await asyncio.sleep(_STEP_S)
        while self._goes_alone and self._turn is not None and self._turn.turn == turn:
            self._commit([], 0)
            await asyncio.sleep(_STEP_S)

    def _decode_to_the_end(self) -> None:
        while self._turn is not None:
            self._commit([], 0)

    def _start(self, opened: Open) -> None:
        self._turn = opened
        self._goes_alone = False
        self._tokens = [*opened.prompt, *opened.committed]
        self._pending = []
        self._commit([], 0)
        if opened.mode is Mode.LATENCY:
            self._decode_to_the_end()

    def _verify(self, draft: Draft) -> None:
        if self._turn is None or draft.turn != self._turn.turn:
            return
        num_known = len(self._tokens) - draft.base
        if num_known == -len(self._pending):
            self._pending += draft.tokens
        elif draft.tokens[: max(0, num_known)] == self._tokens[draft.base :][: len(draft.tokens)]:
            self._pending = draft.tokens[num_known:] if num_known >= 0 else self._pending
        if draft.verify and self._pending:
            self._goes_alone = False
            chain, self._pending = self._pending, []
            self._commit(chain, len(chain))

    def _commit(self, chain: list[int], num_drafted: int) -> None:
        assert self._turn is not None
        base, new = len(self._tokens), []
        for drafted in [*chain, None]:
            token = self._next_token(self._tokens)
            new.append(token)
            self._tokens.append(token)
            if token != drafted or self._left() == 0:
                break
        accepted = sum(a == b for a, b in zip(new, chain, strict=False))
        done = "length" if self._left() == 0 else None
        self._emit(Commit(self._turn.turn, base, new, 1, num_drafted, accepted, finish_reason=done))
        if done:
            self._turn = None

    def _left(self) -> int:
        assert self._turn is not None
        return self._turn.sampling.max_tokens - (len(self._tokens) - len(self._turn.prompt))

    def _emit(self, commit: Commit) -> None:
        if self._commits_left == 0:
            self._turn = None
            self.push(CloudUnreachable("the connection to the verifier was lost"))
            return
        self._commits_left -= 1
        self.push(commit)


class FakeConnector:
    """Hands out the transports it was given, then `CloudUnreachable`."""

    def __init__(self, transports: Sequence[FakeTransport]) -> None:
        self.remaining = list(transports)

    async def connect(self) -> FakeTransport:
        if not self.remaining:
            raise CloudUnreachable("no verifier answers here")
        return self.remaining.pop(0)
