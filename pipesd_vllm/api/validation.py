"""Checks what an edge sends before any of it reaches the engine. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipesd_vllm.wire import MAX_PATIENCE_MS, NO_SEED, Ask, CloseReason, Draft, Open, RefusalCode, Welcome


class CloseConnection(Exception):
    """The connection cannot go on: a WebSocket close code, and a text that starts with a `CloseReason`."""

    def __init__(self, code: int, reason: CloseReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}"[:120])  # a close reason holds 123 bytes
        self.code = code
        self.reason = reason


def engine_died() -> CloseConnection:
    """How a connection ends whose engine is dead."""
    return CloseConnection(1011, CloseReason.ENGINE_DEAD, "the engine has stopped")


def engine_stops() -> CloseConnection:
    """How a connection ends whose engine gives its requests up."""
    return CloseConnection(1012, CloseReason.ENGINE_STOPPING, "resume the turn on another connection")


class RefuseTurn(Exception):
    """This turn cannot be started; the connection can go on. `retry_after_s` as in `Refused`."""

    def __init__(self, code: RefusalCode, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raises `CloseConnection` for an id the target does not have."""
    for token in tokens:
        if token >= vocab_size:
            raise CloseConnection(
                1008, CloseReason.BAD_TOKEN, f"token id {token}, the vocabulary has {vocab_size}"
            )


def check_open(opened: Open, welcome: Welcome) -> None:
    """Raises `CloseConnection` or `RefuseTurn`."""
    sampling = opened.sampling
    for tokens in (
        opened.prompt,
        opened.committed,
        sampling.stop_token_ids,
        sampling.allowed_token_ids,
        list(sampling.logit_bias),
    ):
        check_tokens(tokens, welcome.vocab_size)
    if not opened.prompt:
        raise RefuseTurn(RefusalCode.EMPTY_PROMPT, "the prompt has no tokens")
    num_tokens = len(opened.prompt) + len(opened.committed)
    if num_tokens >= welcome.max_model_len:
        raise RefuseTurn(
            RefusalCode.PROMPT_TOO_LONG,
            f"the prompt has {num_tokens} tokens, the context holds {welcome.max_model_len}; shorten it",
        )
    if len(opened.committed) >= sampling.max_tokens:
        raise RefuseTurn(RefusalCode.BAD_SAMPLING, "all max_tokens are already committed")
    if sampling.seed == NO_SEED or (sampling.temperature > 0 and sampling.seed is None):
        raise RefuseTurn(
            RefusalCode.BAD_SAMPLING, f"a temperature above 0 needs a seed other than {NO_SEED}; draw one"
        )
    if opened.patience_ms > MAX_PATIENCE_MS:
        raise RefuseTurn(RefusalCode.BAD_SAMPLING, f"patience_ms is at most {MAX_PATIENCE_MS}")


def check_ask(ask: Ask, welcome: Welcome) -> None:
    """Raises `CloseConnection` for what no server has committed. The body is for vLLM to check."""
    if ask.resume is None:
        return
    check_tokens(ask.resume.prompt, welcome.vocab_size)
    for stream in ask.resume.streams:
        check_tokens(stream.tokens, welcome.vocab_size)
        if stream.logprobs is not None and len(stream.logprobs) != len(stream.tokens):
            raise CloseConnection(1008, CloseReason.BAD_FRAME, "log-probabilities come for every token")


def check_draft(draft: Draft, welcome: Welcome) -> None:
    """Raises `CloseConnection`."""
    check_tokens(draft.tokens, welcome.vocab_size)
    if draft.first == 0:
        raise CloseConnection(1008, CloseReason.BAD_FRAME, "draft node ids start at 1")
    if len(draft.confidences) not in (0, len(draft.tokens)):
        raise CloseConnection(1008, CloseReason.BAD_FRAME, "one confidence for each draft, or none")
    parents = draft.parents
    if parents is None:
        return
    if len(parents) != len(draft.tokens) or any(not -1 <= p < i for i, p in enumerate(parents)):
        raise CloseConnection(1008, CloseReason.BAD_FRAME, "parents must name earlier nodes of the frame")
