"""What a front end asks of the edge agent and what it gets back."""

from __future__ import annotations

import enum
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from pipesd_vllm.wire import NO_SEED, AskPath, Sampling, TokenLogprobs

__all__ = [
    "ASKED_FOR",
    "AWAY",
    "BUSY",
    "LOST",
    "NOT_DRAFTED",
    "AnswerContinued",
    "AnswerDrafts",
    "AnswerEvent",
    "AnswerHead",
    "AnswerText",
    "AskRequest",
    "Fallback",
    "FinishReason",
    "ForwardedAnswer",
    "GenerationChunk",
    "GenerationRequest",
    "GenerationStats",
    "Generator",
    "Route",
    "Sampling",
    "SessionMode",
    "Source",
    "TargetInfo",
    "TokenizerBundle",
    "draw_seed",
    "seeded",
]


class SessionMode(enum.StrEnum):
    """What a session asks of the server for the time in which it has nothing of the edge's to verify."""

    AUTO = "auto"
    """What measured costs say is best now: stream, overlap or wait."""
    LATENCY = "latency"
    """As `AUTO`, but the server never waits."""
    BALANCED = "balanced"
    """The server waits for a set patience, then decodes by itself."""
    OFFLOAD = "offload"
    """The server waits for drafts."""


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """The target model as the server describes it."""

    model: str
    max_model_len: int
    vocab_size: int
    draft_max_len: int | None = None
    """Context of the draft model in tokens, for the route `local`; None: as the target's."""
    is_known: bool = True
    """False while no verifier was ever reached: all else then describes the draft model."""
    reasoning_parser: str | None = None
    """What splits reasoning from content on the server's own chat API; None: nothing does."""
    reasoning_marks: tuple[str, str] | None = None
    """Start and end of reasoning in the text, if the parser does no more than to cut there."""
    has_draft: bool = True
    """False where no draft model could answer alone: the route `local` is not there."""
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    """What the server gives sampling parameters that a request leaves out (its `generation_config`)."""
    adapters: tuple[str, ...] | None = None
    """Names of the server's LoRA adapters, which answer in place of `model`; None: it was not asked yet."""


@dataclass(frozen=True, slots=True)
class TokenizerBundle:
    """What is needed to render and tokenise for the target: the files' contents.

    `tokenizer_json` is the text of a Hugging Face `tokenizer.json`; `special_tokens`
    maps "bos_token", "eos_token", ... to their strings, for the chat template.
    """

    tokenizer_json: str
    chat_template: str | None
    special_tokens: dict[str, str]
    eos_token_ids: tuple[int, ...]
    content_format: str | None = None
    """What the template gets for a content: "string", or "openai" (a list of parts); None: not known."""
    template_variables: dict[str, Any] = field(default_factory=dict)
    """What the server gives its template unless a request says otherwise."""


_SEED_BITS: Final = 53
"""Bits of a drawn seed: every JSON reader keeps that many, so a client can send the seed again."""


def draw_seed(draw_bits: Callable[[int], int]) -> int:
    """A new seed; `draw_bits` returns as many random bits as asked for."""
    return draw_bits(_SEED_BITS)


def seeded(sampling: Sampling, draw_bits: Callable[[int], int]) -> Sampling:
    """`sampling` with a drawn seed where it needs one and has none: at a temperature above 0.

    `NO_SEED` is none, as in vLLM.
    """
    if sampling.seed not in (None, NO_SEED):
        return sampling
    seed = draw_seed(draw_bits) if sampling.temperature > 0 else None
    return msgspec.structs.replace(sampling, seed=seed)


class Route(enum.StrEnum):
    """How an answer is made."""

    COLLABORATIVE = "collaborative"
    """Drafted here, committed by the target."""
    CLOUD = "cloud"
    """Passed through to the server's own OpenAI API."""
    LOCAL = "local"
    """Draft model alone; never verified."""


ASKED_FOR: Final = "asked for"
AWAY: Final = "verifier out of reach"
BUSY: Final = "verifier overloaded"
LOST: Final = "verifier lost in mid-answer"
"""Reasons of the route `local`, as `GenerationStats.route_reason` gives them."""
NOT_DRAFTED: Final = "not drafted: "
"""Begins the reason of an answer on the route `collaborative` that a session cannot give."""


class FinishReason(enum.StrEnum):
    """Why a generation ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


class Source(enum.StrEnum):
    """Where a shown token comes from."""

    DRAFTED = "drafted"
    """The edge's draft model had sent it as a draft and the target agreed."""
    LOOKED_UP = "looked_up"
    """As `DRAFTED`, but the draft was looked up in the text itself or in texts of this machine."""
    SERVER = "server"
    """The server had drafted it, with its speculator or by taking up a chain again, and the target agreed."""
    CORRECTED = "corrected"
    """The target's own: instead of a draft, after the last draft, or while there was none."""
    UNVERIFIED = "unverified"
    """The draft model's own; no target has seen it."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A tokenised prompt and how to continue it.

    A temperature above 0 without a seed gets one that is drawn; `GenerationStats.seed` tells which, to
    replay the text.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: Sampling
    route: Route = Route.COLLABORATIVE
    mode: SessionMode | None = None
    """None: the agent's setting."""
    policy: str | None = None
    """Drafting policy by name; None: the agent's setting."""
    num_committed: int = 0
    """So many tokens at the end of `prompt_token_ids` are the answer's own, generated before; everything in
    `sampling` counts from the prompt in front of them. For the route `local`, which takes over with them."""
    structure_after: tuple[str, str] | None = None
    """Start and end marks of reasoning, which is free of form: `sampling.structure` holds for what follows.
    For drafts and the route `local`; the server has its own reasoning parser."""
    reason: str = ASKED_FOR
    """Why the route is `local`, if it is."""

    @property
    def prompt_length(self) -> int:
        """Number of tokens in front of the answer."""
        return len(self.prompt_token_ids) - self.num_committed


@dataclass(frozen=True, slots=True)
class AskRequest:
    """A client's request as the server's own API takes it: `body` is JSON for `path`.

    At a temperature above 0 the body needs a seed: without one the answer cannot be resumed.
    """

    request_id: str
    path: AskPath
    body: bytes
    mode: SessionMode | None = None
    """None: the agent's setting."""
    policy: str | None = None
    """Drafting policy by name; None: the agent's setting."""
    sampled: bool = True
    """Whether the temperature is above 0, as far as the body tells."""
    shows_drafts: bool = False
    """Whether `AnswerDrafts` come, too."""
    may_continue_locally: bool = False
    """Whether the draft model can go on with the answer if the verifier is lost: it is one plain text."""
    structure_after: tuple[str, str] | None = None
    """As `GenerationRequest.structure_after`."""

    def continued(self, prompt: tuple[int, ...], sampling: Sampling) -> GenerationRequest:
        """The same by token ids: the prompt that the server made of it, and how it picks tokens."""
        return GenerationRequest(
            self.request_id,
            prompt,
            sampling,
            mode=self.mode,
            policy=self.policy,
            structure_after=self.structure_after,
        )


@dataclass(slots=True)
class GenerationStats:
    """Running figures of one generation. Times in seconds on the agent's clock."""

    route: Route = Route.COLLABORATIVE
    route_reason: str = "default"
    started_s: float = 0.0
    first_token_s: float | None = None
    last_token_s: float | None = None
    completion_tokens: int = 0
    longest_tokens: int = 0
    """Of the longest of several answers, which are made side by side; of the only one: all of them."""
    target_passes: int = 0
    draft_tokens_sent: int = 0
    draft_tokens_verified: int = 0
    draft_tokens_accepted: int = 0
    draft_tokens_discarded: int = 0
    uplink_draft_bytes: int = 0
    """Bytes of draft frames, WebSocket headers included."""
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    unverified_tokens: int = 0
    """Shown tokens that no target has seen."""
    drafted: bool = True
    """False where a session cannot do what was asked, so that the server answers without drafts."""
    seed: int | None = None
    ignored: tuple[str, ...] = ()
    """Sampling parameters that the route could not follow."""
    in_force: str = ""
    """"stream", "overlap" or "wait": what the server does for want of drafts (`edge_agent.control.Arm`)."""
    in_force_reason: str = ""
    streaming_s: float | None = None
    """What a token takes when this server streams: one pass each."""
    streamed_bytes: int | None = None
    """What plain streaming of this answer carries: the request's body and the events of its answer."""

    @property
    def saved_passes(self) -> int | None:
        """Against streaming: a pass for each token. Negative: more."""
        return self.completion_tokens - self.target_passes if self._is_comparable else None

    @property
    def saved_ms(self) -> float | None:
        """Against streaming the longest answer, from its first token on. Negative: this took longer."""
        if self.streaming_s is None or self.first_token_s is None or not self._is_comparable:
            return None
        took_s = (self.last_token_s or self.first_token_s) - self.first_token_s
        return ((self.longest_tokens - 1) * self.streaming_s - took_s) * 1e3

    @property
    def saved_bytes(self) -> int | None:
        """Up and down, against streaming. Negative: more."""
        if self.streamed_bytes is None or not self._is_comparable:
            return None
        return self.streamed_bytes - self.uplink_bytes - self.downlink_bytes

    @property
    def _is_comparable(self) -> bool:
        return self.route is Route.COLLABORATIVE and self.drafted and self.completion_tokens > 0

    @property
    def verified(self) -> bool:
        """Whether every token is the target's own choice."""
        return self.route is not Route.LOCAL and not self.unverified_tokens

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token."""
        return None if self.first_token_s is None else (self.first_token_s - self.started_s) * 1e3

    @property
    def tpt_ms(self) -> float | None:
        """Total time over generated tokens (the paper's TPT)."""
        if self.last_token_s is None or not self.completion_tokens:
            return None
        return (self.last_token_s - self.started_s) * 1e3 / self.completion_tokens

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted over verified draft tokens."""
        if not self.draft_tokens_verified:
            return None
        return self.draft_tokens_accepted / self.draft_tokens_verified

    @property
    def passes_per_token(self) -> float | None:
        """Target forward passes per generated token."""
        return self.target_passes / self.completion_tokens if self.completion_tokens else None


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """Newly committed tokens, in order. The last chunk has a `finish_reason` (and maybe no tokens).

    `logprobs` has the target's view of each token, where they were asked for; the `local` route,
    which has no target, gives none.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    stats: GenerationStats = field(default_factory=GenerationStats)
    sources: tuple[Source, ...] = ()
    """One for each token; empty: not known, but verified."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    stream: int = 0
    """Which of several answers they are of."""

    @property
    def verified(self) -> bool:
        """Whether all its tokens are the target's own choice."""
        return Source.UNVERIFIED not in self.sources


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The server's own API has begun to answer. `stats` go on counting."""

    status: int
    stats: GenerationStats


@dataclass(frozen=True, slots=True)
class AnswerText:
    """More of the body, as the server's API sends it: of server-sent events only whole ones, or all of it."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AnswerContinued:
    """The verifier is lost: only chunks of the draft model's follow, which continue `token_ids`.

    `token_ids` are those that the target committed after `prompt_token_ids`.
    """

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnswerDrafts:
    """All drafts after the last committed token, as of now; no target has seen them. `()`: none."""

    token_ids: tuple[int, ...]


AnswerEvent = AnswerHead | AnswerText | AnswerContinued | AnswerDrafts | GenerationChunk


class Generator(Protocol):
    """The edge agent as a front end sees it."""

    async def target(self, *, offline: bool = False, max_age_s: float = math.inf) -> TargetInfo:
        """The target behind this agent; what is known of it when it is out of reach.

        `offline`: open no connection. `max_age_s`: how old the list of LoRA adapters may be; without a limit
        the server is not asked for it. Raises `CloudError` if nothing is known.
        """
        ...

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        """The target's tokenizer, a copy kept on disk, or the draft's own. `offline`, errors as `target`."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        """Stream a generation. Closing the iterator ends it on both sides at once.

        Raises `CloudRefused` before the first chunk if the server refuses the request,
        `CloudUnreachable` or `CloudMisbehaved` when the connection fails.
        """
        ...

    def ask(self, request: AskRequest) -> AsyncIterator[AnswerEvent]:
        """Have the server's own API answer, drafted for from here; a chunk comes before the text it makes.

        Every event of the body comes once and in order, over however many connections. Closing the iterator
        ends the answer. Raises `VerifierTooOld` if the server takes no such requests, `DraftAnswers` if the
        draft model is to answer in its place, and as `generate`.
        """
        ...

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        """POST `body`, JSON, to the server's own API at `path`. Raises `CloudUnreachable`."""
        ...

    async def health(self) -> dict[str, str]:
        """`{"status": "ok" | "degraded", ...}` with one line per part."""
        ...

    async def close(self) -> None:
        """End all generations and free everything. Idempotent."""
        ...


class Fallback(enum.StrEnum):
    """What to do while the verifier is out of reach."""

    LOCAL = "local"
    """The draft model answers, or goes on, alone; marked as not verified."""
    ERROR = "error"
    """The answer fails: 503, or an error event in mid-stream."""
    WAIT = "wait"
    """The answer waits until the verifier is back, and goes on where it was."""


class ForwardedAnswer(Protocol):
    """What the server answered, whatever its status. Must be closed."""

    @property
    def status(self) -> int: ...

    async def read(self) -> bytes:
        """The whole body. Raises `CloudUnreachable` if the connection is lost."""
        ...

    def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes, cut anywhere. Raises `CloudUnreachable`."""
        ...

    async def aclose(self) -> None:
        """End the request on the server, if it still runs. Idempotent."""
        ...
