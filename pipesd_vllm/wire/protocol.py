"""The wire contract between an edge and a verifier: msgpack frames over one WebSocket.

Down goes the *committed stream* (`Commit`), append-only and addressed by absolute
position; up go nodes of a *draft trie* (`Draft`). A turn is opened with token ids (`Open`) or with the
body of a request to vLLM's own API (`Ask`), whose answer comes beside the stream. docs/protocol.md explains
the rules.

A position is an index into the whole sequence, prompt first: the prompt occupies
positions `0 .. len(prompt) - 1`, the first generated token has position `len(prompt)`.

Imports only the standard library and msgspec, so that both sides can share it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final, Literal, TypeVar

import msgspec

PROTOCOL_VERSION: Final = 2
SUBPROTOCOL: Final = f"pipesd.v{PROTOCOL_VERSION}"
"""WebSocket subprotocol; naming another version gets `CloseReason.BAD_VERSION`."""
SERVED_SUBPROTOCOLS: Final = {SUBPROTOCOL: PROTOCOL_VERSION, "pipesd.v1": 1}
"""Those that a server takes, and the version that it greets with: every frame of version 1 means the same in
version 2, which has more of them."""
ASK: Final = "ask"
"""In `Welcome.features` of a server that takes `Ask`."""
KEPT: Final = "kept"
"""In `Welcome.features` of a server that takes `Ask.kept`."""

AFFINITY_HEADER: Final = "x-pipesd-prefix"
"""Of an upgrade: proxies send those that are alike to one server, so that prefix caches are hit."""

SESSION_PATH: Final = "/v1/pipesd/session"
INFO_PATH: Final = "/v1/pipesd/info"
TOKENIZER_PATH: Final = "/v1/pipesd/tokenizer"

MAX_FRAME_BYTES: Final = 1 << 20
"""Largest frame either side accepts; the WebSocket close code beyond it is 1009. `Part`s carry more."""
MAX_DRAFT_TOKENS: Final = 256
"""Most nodes one `Draft` may add."""
MAX_PATIENCE_MS: Final = 60_000
"""Longest patience; an `Open` that asks for more is refused with `BAD_SAMPLING`."""
MAX_LOGPROBS: Final = 20
"""Most alternatives a token is reported with."""
MAX_LISTED: Final = 1024
"""Most entries of `Sampling.logit_bias`, `allowed_token_ids` and `bad_words`."""
MAX_STOP_TOKENS: Final = 100
"""Most entries of `Sampling.stop_token_ids`. With `min_tokens`, vLLM's worker takes 128 at most, the model's
own ends included, and raises in the middle of a step beyond (`v1/worker/gpu/sample/logit_bias.py`, 0.32)."""
FP64_NOISE: Final = "fp64"
"""`Identity.noise` of servers that run with vLLM's `--use-fp64-gumbel`."""
NO_SEED: Final = -1
"""The one int64 that is no seed: vLLM takes it for "draw one yourself, and tell nobody"."""
MAX_STRUCTURE_BYTES: Final = 1 << 16
"""Longest `Structure.value`, in characters."""

_UINT32_MAX: Final = 2**32 - 1
UInt = Annotated[int, msgspec.Meta(ge=0, le=_UINT32_MAX)]
TokenIds = list[UInt]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2.0, le=2.0)]
Bias = Annotated[float, msgspec.Meta(ge=-100.0, le=100.0)]
BadWord = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Patience = Annotated[int, msgspec.Meta(ge=0, le=MAX_PATIENCE_MS)]
AdapterName = Annotated[str, msgspec.Meta(max_length=256)]
RequestId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
AskPath = Literal["/v1/chat/completions", "/v1/completions"]
"""Routes of vLLM's own API that an `Ask` can name."""


class Mode(enum.StrEnum):
    """What the server does while it has nothing of the edge's to verify."""

    OFFLOAD = "offload"
    """Waits for drafts: fewest target passes."""
    BALANCED = "balanced"
    """Waits for `patience_ms`, then decodes by itself."""
    LATENCY = "latency"
    """Never waits: decodes by itself, uses drafts that arrive in time."""


class CloseReason(enum.StrEnum):
    """First word of a close reason; sent with code 1008 unless noted."""

    BAD_VERSION = "bad_version"
    BAD_FRAME = "bad_frame"  # 1003 for text, 1007 for undecodable bytes
    BAD_TOKEN = "bad_token"
    TOO_LARGE = "too_large"  # 1009
    IDLE = "idle"  # 1000
    SLOW_READER = "slow_reader"
    ENGINE_DEAD = "engine_dead"  # 1011
    ENGINE_STOPPING = "engine_stopping"  # 1012


class RefusalCode(enum.StrEnum):
    """Why a turn was refused or ended by the server; the connection stays usable."""

    PROMPT_TOO_LONG = "prompt_too_long"
    EMPTY_PROMPT = "empty_prompt"
    BAD_SAMPLING = "bad_sampling"
    OVERLOADED = "overloaded"
    ENGINE_ERROR = "engine_error"
    ABANDONED = "abandoned"
    NOT_RESUMABLE = "not_resumable"
    UNKNOWN_ADAPTER = "unknown_adapter"


class StructureKind(enum.StrEnum):
    """What `Structure.value` holds."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    """Any JSON object; `value` is empty."""
    REGEX = "regex"
    GRAMMAR = "grammar"
    """EBNF or Lark, whatever the server's backend reads."""
    CHOICE = "choice"
    """A JSON array of strings, one of which is the answer."""


class Structure(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """The form the whole answer must have; the server's structured-output backend enforces it."""

    kind: StructureKind
    value: Annotated[str, msgspec.Meta(max_length=MAX_STRUCTURE_BYTES)] = ""


class Sampling(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """How the target picks tokens (docs/sampling.md). `temperature == 0` is greedy.

    The token at position i is the argmax over tokens v of `log p_i(v) + g(seed, i - 1, v)`, p_i being the
    target's distribution under the other fields and g vLLM's own noise (`noise.py`): the text is that of
    the same server's plain API for the same fields. A temperature above 0 needs a seed other than
    `NO_SEED`, by which vLLM's `SamplingParams` means none: without one the turn is refused with
    `BAD_SAMPLING`, because nobody could draft for it or take it over. Fields have the meaning of vLLM's
    `SamplingParams`; penalties count the turn's generated tokens (`Open.committed` among them),
    `repetition_penalty` the prompt's as well.
    """

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=_UINT32_MAX)]
    temperature: Annotated[float, msgspec.Meta(ge=0.0, le=100.0)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    seed: Seed | None = None
    ignore_eos: bool = False
    stop_token_ids: Annotated[TokenIds, msgspec.Meta(max_length=MAX_STOP_TOKENS)] = []
    top_k: UInt = 0
    """Only the k most likely tokens; 0: all."""
    min_p: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0.0, le=100.0)] = 1.0
    min_tokens: UInt = 0
    """No end of sequence and no stop token before this many generated tokens."""
    logit_bias: Annotated[dict[UInt, Bias], msgspec.Meta(max_length=MAX_LISTED)] = {}
    bad_words: Annotated[list[BadWord], msgspec.Meta(max_length=MAX_LISTED)] = []
    """Texts that must not be generated, each in every way in which it can start a word."""
    allowed_token_ids: Annotated[TokenIds, msgspec.Meta(max_length=MAX_LISTED)] = []
    """The only tokens to choose from; empty: all."""
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    """Report each token's log-probability and those of this many alternatives; None: report nothing."""
    structure: Structure | None = None


class Open(msgspec.Struct, tag=1, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Up: start turn `turn` on this connection; ends the turn before it, if any.

    `committed` are tokens the edge already holds for this turn (a session taken over
    from a lost connection): they count as generated, not as prompt. `adapter` names one of the server's LoRA
    adapters, as its API does; empty: the base model.
    """

    turn: UInt
    prompt: TokenIds
    sampling: Sampling
    mode: Mode = Mode.BALANCED
    patience_ms: UInt = 500
    committed: TokenIds = []
    adapter: AdapterName = ""


class Draft(msgspec.Struct, tag=2, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Up: add `len(tokens)` nodes to the turn's draft trie.

    Nodes get the ids `first, first + 1, ...`; ids start at 1, never repeat within a turn.
    `base` is the position of `tokens[0]`. `anchor` is the id of the node it hangs
    from, or 0 for the committed prefix that ends at `base - 1`. `parents[i]` is the index
    (within this frame) of the parent of `tokens[i]`, or -1 for the anchor; left out,
    the frame is a chain. Children are offered most likely first. `verify` is the NAV trigger:
    check what the trie holds now. Each `stream` has its trie. `confidences` has a byte for each token
    (`confidence_byte`), or none at all.
    """

    turn: UInt
    first: UInt
    base: UInt
    anchor: UInt
    tokens: Annotated[TokenIds, msgspec.Meta(min_length=1, max_length=MAX_DRAFT_TOKENS)]
    verify: bool = True
    parents: list[int] | None = None
    stream: UInt = 0
    confidences: Annotated[bytes, msgspec.Meta(max_length=MAX_DRAFT_TOKENS)] = b""


def confidence_byte(probability: float) -> int:
    """How likely a draft is the target's choice where those before it are, as a byte: 255 stands for 1."""
    return min(255, max(0, round(probability * 255)))


class Cancel(msgspec.Struct, tag=3, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Up: end turn `turn`; nothing more is sent for it."""

    turn: UInt


class TokenLogprobs(msgspec.Struct, array_like=True, frozen=True):
    """What the target thought of a committed token: natural logarithms of its unmodified distribution.

    `rank` counts from 1; `top` are the likeliest tokens as (id, log-probability), best first.
    """

    logprob: float
    rank: int
    top: list[tuple[UInt, float]] = []


class Guess(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """The prompt that the edge expects (`prompt_guess`): if it is right, `Begun` need not repeat it."""

    num_tokens: UInt
    sha256: bytes


class CommittedStream(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """All that the edge got of one stream: the fields of its `Commit`s, put together."""

    tokens: TokenIds = []
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: Literal["stop", "length", "stop_string"] | None = None
    stop_reason: int | None = None


class Resume(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Where an answer stands that another connection began.

    `prompt` and `media` are those of stream 0. `delivered[i]` counts the events of choice i that the client
    has: those are not sent again. The streams are those of `Begun`, in order; one left out has no token yet.
    `adapter` is `Begun.adapter`.
    """

    prompt: TokenIds
    streams: list[CommittedStream] = []
    delivered: list[UInt] = []
    adapter: AdapterName = ""
    media: Annotated[bytes, msgspec.Meta(max_length=32)] = b""


class Kept(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Bytes of the connection's last `Ask.body` that stand before and behind this one's (`kept.py`)."""

    prefix: UInt
    suffix: UInt
    digest: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    """The first bytes of the whole body's SHA-256."""


class Ask(msgspec.Struct, tag=4, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Up: have vLLM's own API answer `body` (JSON) at `path`; ends the turn before it, if any.

    The answer comes as `Reply` and `Text`; what the target commits for it, as `Commit`s of one or more
    streams, announced by `Begun`. `mode` and `patience_ms` are those of stream 0; other streams start in
    `Mode.LATENCY`. A body without a seed cannot be taken over at a temperature above 0. With `kept`, `body`
    is only what the last one on this connection did not say.
    """

    turn: UInt
    path: AskPath
    body: bytes
    request_id: RequestId
    mode: Mode = Mode.BALANCED
    patience_ms: Patience = 500
    guess: Guess | None = None
    resume: Resume | None = None
    kept: Kept | None = None


class Part(msgspec.Struct, tag=5, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Up: a piece of a message that is larger than a frame; `last` ends it. Nothing else comes between."""

    data: bytes
    last: bool = False


class Control(msgspec.Struct, tag=6, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Up: from now on this stream of a running turn has another `mode` or patience; None leaves it.

    `alone`: no drafts will come for a while, so decode without them until some arrive that fit.
    """

    turn: UInt
    mode: Mode | None = None
    patience_ms: Patience | None = None
    alone: bool = False
    stream: UInt = 0


class Limits(msgspec.Struct, array_like=True, frozen=True):
    """What the server accepts."""

    max_frame_bytes: int
    max_draft_tokens: int
    """Nodes that one `Draft` may add."""
    max_drafts: int
    """Draft tokens of a session that one target pass checks (vLLM's num_speculative_tokens); more of them
    beyond the committed tokens wait for the next passes. 0: none are checked."""


class Fingerprint(msgspec.Struct, array_like=True, frozen=True):
    """Identity of a vocabulary: SHA-256 over its first `num_tokens` entries."""

    num_tokens: int
    sha256: str


class Identity(msgspec.Struct, frozen=True):
    """Identity of a target: servers of equal identities give the same text, whatever name they serve it as.

    The server fills it in once, at its start (`target_identity.py`). Empty: not set there. A map on the wire,
    and an object in the info route's answer.
    """

    weights: str
    """`hub:` and the commit, or `files:` and a digest of the weight files' headers and sizes."""
    dtype: str = ""
    kv_cache_dtype: str = ""
    quantization: str = ""
    vllm_version: str = ""
    runner: str = ""
    """vLLM's model runner, `v1` or `v2`: they draw and compute differently."""
    noise: str = ""
    """`fp32` or `FP64_NOISE`: what tokens are drawn with (`noise.py`); empty: fp32."""
    chat_template: str = ""
    """SHA-256 of the chat template and the variables that the server gives it."""
    tool_parser: str = ""
    reasoning_parser: str = ""

    def differences(self, other: Identity) -> list[str]:
        """Names of the fields in which the two differ."""
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)]


class Welcome(msgspec.Struct, tag=16, array_like=True, frozen=True):
    """Down, first frame of a connection: what the edge checks before its first turn.

    `identity` is None from servers that do not tell it. `features` names what the server takes beyond
    version 1 (`ASK`).
    """

    version: int
    model: str
    max_model_len: int
    vocab_size: int
    fingerprint: Fingerprint
    limits: Limits
    identity: Identity | None = None
    features: list[str] = []

    @property
    def draws_in_fp64(self) -> bool:
        """Whether tokens are drawn with the fp64 form of the noise (`noise.py`)."""
        return self.identity is not None and self.identity.noise == FP64_NOISE


class Commit(msgspec.Struct, tag=17, array_like=True, frozen=True):
    """Down: the target committed `tokens` at positions `base, base + 1, ...`.

    Frames may be merged or replayed; only positions carry meaning. The counters are
    those of the target passes since the frame before: `passes` forward passes,
    `drafted` draft tokens checked in them, `accepted` of those kept. `queue_ms` is how
    long the drafts waited for the last pass to start, `step_ms` how long it took.
    `finish_reason` ("stop", "length") comes with a stream's last frame; `stop_reason` is the stop token that
    ended it, None for the end of the sequence. A stop string that an `Ask` names is found after the commit:
    then a frame without tokens says "stop_string", and tokens may have been committed beyond it.
    `logprobs`, where `Sampling.logprobs` asked for them, has one entry for each of `tokens`.
    `cap`: the server is so busy that a pass now checks no more drafts of this session; None: as many as
    `Limits.max_drafts`.
    `resumed` drafts of a chain that the target had parted from were checked once more, by the server's own
    choice; `drafted` and `accepted` do not count them.
    """

    turn: int
    base: int
    tokens: list[int]
    passes: int = 1
    drafted: int = 0
    accepted: int = 0
    queue_ms: float = 0.0
    step_ms: float = 0.0
    finish_reason: str | None = None
    logprobs: list[TokenLogprobs] | None = None
    stream: int = 0
    stop_reason: int | None = None
    cap: int | None = None
    resumed: int = 0


class Refused(msgspec.Struct, tag=18, array_like=True, frozen=True):
    """Down: turn `turn` was not started or cannot go on; `message` says what to do.

    `retry_after_s`: how long an overloaded server asks to be left alone; None: it does not say.
    """

    turn: int
    code: RefusalCode
    message: str
    retry_after_s: float | None = None


class Begun(msgspec.Struct, tag=19, array_like=True, frozen=True):
    """Down: the target begins with one prompt of an `Ask`; a completion of several prompts has one for each.

    It has the streams `first, first + 1, ...`, one for each answer asked for. `seeds` are theirs, None where
    nothing is drawn; `sampling` is what the target samples with, defaults filled in, the seed the first's.
    `prompt` is empty if the guess was right; images and sound stand in it as the tokens that hold their
    places, and `media` is a digest of them, empty if there are none. Not `drafted`: the session cannot do
    what `reason` says, so vLLM answers as without us; no `Commit`s come, and nothing can be taken over.
    `adapter` is the identity of the LoRA adapter that the body names as its model, told as `Identity.weights`
    is; empty: the base model.
    """

    turn: int
    prompt: list[int] = []
    first: int = 0
    seeds: list[int | None] = []
    sampling: Sampling | None = None
    drafted: bool = True
    reason: str = ""
    adapter: str = ""
    media: bytes = b""


class Reply(msgspec.Struct, tag=20, array_like=True, frozen=True):
    """Down: status and headers of the answer to an `Ask`, as vLLM gave them."""

    turn: int
    status: int
    headers: list[tuple[str, str]] = []


class Text(msgspec.Struct, tag=21, array_like=True, frozen=True):
    """Down: more of the answer's body; `last` ends the turn. `deflate.py` says how `data` is compressed."""

    turn: int
    data: bytes
    last: bool = False


Upstream = Open | Draft | Cancel | Ask | Part | Control
Downstream = Welcome | Commit | Refused | Begun | Reply | Text


class ProtocolError(ValueError):
    """A frame that is not in the protocol; the text is safe to send as a close reason."""


_T = TypeVar("_T")
_PART_OVERHEAD: Final = 16
"""More than what a `Part` adds to its data, in bytes."""

_encoder = msgspec.msgpack.Encoder()
_up_decoder: msgspec.msgpack.Decoder[Upstream] = msgspec.msgpack.Decoder(Upstream)
_down_decoder: msgspec.msgpack.Decoder[Downstream] = msgspec.msgpack.Decoder(Downstream)


def encode(message: Upstream | Downstream) -> bytes:
    """One frame's payload."""
    return _encoder.encode(message)


def encode_in_parts(message: Upstream) -> Iterator[bytes]:
    """The payloads of as many frames as `message` needs."""
    data = encode(message)
    if len(data) <= MAX_FRAME_BYTES:
        yield data
        return
    room = MAX_FRAME_BYTES - _PART_OVERHEAD
    for start in range(0, len(data), room):
        yield encode(Part(data[start : start + room], start + room >= len(data)))


def decode_upstream(data: bytes, limit: int = MAX_FRAME_BYTES) -> Upstream:
    """A frame sent by an edge, or what its parts make together; at most `limit` bytes.

    Raises `ProtocolError`.
    """
    return _decode(_up_decoder, data, limit)


def decode_downstream(data: bytes) -> Downstream:
    """A frame sent by a server. Raises `ProtocolError`."""
    return _decode(_down_decoder, data)


def _decode(decoder: msgspec.msgpack.Decoder[_T], data: bytes, limit: int = MAX_FRAME_BYTES) -> _T:
    if len(data) > limit:
        raise ProtocolError(f"frame of {len(data)} bytes, at most {limit} allowed")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(str(error)) from error


def prompt_guess(prompt: Sequence[int]) -> Guess:
    """The guess that the prompt is `prompt`: SHA-256 of its ids as little-endian 32-bit numbers."""
    data = b"".join(token.to_bytes(4, "little") for token in prompt)
    return Guess(len(prompt), hashlib.sha256(data).digest())


def fingerprint(tokens: Iterable[str]) -> Fingerprint:
    """Fingerprint of a vocabulary given as its token strings in id order.

    The strings are the ones stored in the tokenizer file ("Ġthe"), which Hugging Face
    tokenizers and GGUF files share. Entries that only pad the vocabulary are left out by the caller.
    """
    digest = hashlib.sha256()
    num_tokens = 0
    for token in tokens:
        data = token.encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(4, "little"))
        digest.update(data)
        num_tokens += 1
    return Fingerprint(num_tokens, digest.hexdigest())
