"""What one simulated run is made of: servers, edges, chats and faults. Pure data with a JSON form.

Times are virtual seconds since the run began, sizes bytes, rates bytes a second. A plan and its seed decide
everything that happens: `benchmarks.sim.world.run(plan)` gives the same event log each time.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from operator import itemgetter
from typing import Final

import msgspec

from edge_agent.api import Fallback, Route, SessionMode
from edge_agent.control import PolicyParameters
from pipesd_vllm.wire import Sampling

__all__ = [
    "DEFAULT_PARAMETERS",
    "AbortAll",
    "Api",
    "Blackhole",
    "Chat",
    "DraftCost",
    "DraftFails",
    "EdgeCrash",
    "EdgeLie",
    "EdgeLies",
    "EdgePlan",
    "EngineDeath",
    "EngineStall",
    "Fault",
    "Leave",
    "LinkPlan",
    "NatForgets",
    "Overload",
    "Plan",
    "Refuse",
    "Reset",
    "Restart",
    "ServerLie",
    "ServerLies",
    "ServerPlan",
    "Side",
    "Stall",
    "StepCost",
    "Unauthorized",
    "decode_plan",
    "encode_plan",
]

DEFAULT_PARAMETERS: Final = PolicyParameters(
    sequence_threshold=0.1, token_threshold=0.25, max_ahead=16, patience_ms=500, max_window=12
)
"""As `edge_agent.settings`."""


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of all parts of a plan: `msgspec.structs.replace` makes a changed copy."""


class Side(enum.StrEnum):
    """A direction of a path, as the edge sees it."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


# -- what there is ------------------------------------------------------------------------


class LinkPlan(_Data, frozen=True, kw_only=True):
    """An edge's path to its server; both directions alike unless `down_bytes_s` is given."""

    delay_s: float = 0.015
    """One way; half of the RTT."""
    bytes_s: float = 2.5e6
    down_bytes_s: float | None = None
    jitter_s: float = 0.0
    """Each segment is held up for 0 to this long more; order is kept."""
    loss: float = 0.0
    """Share of packets that are lost; TCP sends them again."""
    up_bytes_s: tuple[float, ...] = ()
    """Rates of the uplink in place of `bytes_s`: a new one every `up_step_s`, over and over."""
    up_step_s: float = 20.0
    kernel_bytes: int = 65_536
    """What the kernel takes in beyond what is acknowledged; writing beyond it blocks."""


class StepCost(_Data, frozen=True, kw_only=True):
    """One engine step takes `base_s + token_s * (tokens - 1) + context_s * context` seconds, and `request_s`
    for each of its requests beyond the first.

    `tokens` are those computed in the step, `context` the KV entries read by all its requests.
    """

    base_s: float = 0.065
    token_s: float = 0.0005
    context_s: float = 0.0
    request_s: float = 0.0
    measured: tuple[tuple[int, float], ...] = ()
    """Tokens and seconds of measured steps of one request, by tokens, in place of `base_s` and `token_s`:
    linear in between, and beyond as between the last two."""

    def seconds(self, tokens: int, context: int, requests: int = 1) -> float:
        """What a step takes."""
        beside_s = self.request_s * (requests - 1) + self.context_s * context
        if len(self.measured) < 2:
            return self.base_s + self.token_s * (tokens - 1) + beside_s
        at = bisect_left(self.measured, tokens, 1, len(self.measured) - 1, key=itemgetter(0))
        (few, few_s), (many, many_s) = self.measured[at - 1 : at + 1]
        return few_s + (many_s - few_s) * (tokens - few) / (many - few) + beside_s


class ServerPlan(_Data, frozen=True, kw_only=True):
    """One verifier: API server and engine."""

    target: str = "target"
    """Name of a target of `benchmarks.sim.models`; two names: two texts."""
    step: StepCost = StepCost()
    num_blocks: int = 200
    """KV blocks of 16 tokens."""
    max_num_seqs: int = 8
    max_draft: int = 16
    """vLLM's `num_speculative_tokens`."""
    async_scheduling: bool = False
    """A step is scheduled while the one before runs, as on a GPU; vLLM's CPU build has it off."""
    budget: bool = True
    """False: all drafts are verified, at whatever load."""
    ipc_s: float = 0.0002
    """Between API server and engine, one way."""
    service_s: float = 0.0
    """The API server's event loop is busy for this long with each frame that it reads or writes."""
    api_key: str | None = None
    max_sessions: int = 1024
    key_share: float = 1.0
    suspend_after_s: float = 5.0
    abandon_after_s: float = 120.0
    send_timeout_s: float = 2.0
    idle_timeout_s: float = 300.0


class DraftCost(_Data, frozen=True, kw_only=True):
    """One call of the draft model takes `call_s + token_s * (evaluated - sequences)` seconds."""

    call_s: float = 0.004
    token_s: float = 0.0
    """Each token beyond one a sequence: prompts, and what was committed against the drafts."""


class EdgePlan(_Data, frozen=True, kw_only=True):
    """One edge agent with its draft model and its path."""

    server: int = 0
    replicas: tuple[int, ...] = ()
    """More servers that it may turn to, over paths like the first one."""
    link: LinkPlan = LinkPlan()
    draft: DraftCost = DraftCost()
    agreement: float = 0.75
    """Mean probability that a draft is the target's greedy token; the draft's confidence is calibrated."""
    confidence: float = 2.0
    """Concentration of the Beta distribution of confidences: small is spread, large is near the mean."""
    agreement_seed: int | None = None
    """Which drafts are right; None: drawn from the plan's seed."""
    drafts: bool = True
    """False: the draft model has no free sequence, so that the edge streams."""
    lookup: bool = True
    """Drafts are also looked up in the text, which takes no time."""
    context_length: int = 512
    max_sequences: int = 4
    fallback: Fallback = Fallback.WAIT
    parameters: PolicyParameters = DEFAULT_PARAMETERS
    tune: bool = False
    warm: bool = False
    """Makes and times its first connection before the run begins."""
    api_key: str | None = None
    connect_timeout_s: float = 10.0

    @property
    def servers(self) -> tuple[int, ...]:
        """All that it may turn to, the first in front."""
        return (self.server, *self.replicas)


class Api(enum.StrEnum):
    """How a chat asks."""

    AGENT = "agent"
    """`EdgeAgent.generate`, token ids in and out."""
    COMPLETIONS = "completions"
    """`POST /v1/completions` of the gateway over ASGI, streamed."""
    CHAT = "chat"
    """`POST /v1/chat/completions`, streamed."""


class Chat(_Data, frozen=True, kw_only=True):
    """One request and the client that waits for its answer."""

    prompt: tuple[int, ...]
    """Token ids. For `Api.CHAT` the message is their text, and the chat template stands around it."""
    sampling: Sampling
    edge: int = 0
    start_s: float = 0.0
    after: int | None = None
    """`start_s` counts from the end of this chat, one named before; None: from the run's beginning."""
    mode: SessionMode = SessionMode.BALANCED
    policy: str = "adaptive"
    route: Route = Route.COLLABORATIVE
    api: Api = Api.AGENT
    n: int = 1
    """Answers asked for, at a temperature above 0 and at the gateway only."""


# -- what befalls it ----------------------------------------------------------------------


class _Fault(_Data, frozen=True, kw_only=True, tag_field="fault"):
    """Base of all faults; the JSON form names the kind in `fault`."""


class Reset(_Fault, frozen=True, kw_only=True, tag="reset"):
    """A connection of an edge is cut, maybe in mid-frame, by a RST on the way."""

    edge: int
    connection: int
    """Number of the edge's connection, from 0."""
    side: Side
    """Direction whose segments are counted: UP or DOWN."""
    after: int
    """The cut falls into the segment of this number, from 1; the upgrade is the first of each side."""


class Stall(_Fault, frozen=True, kw_only=True, tag="stall"):
    """What is sent within the time arrives only after it."""

    edge: int
    at_s: float
    for_s: float
    side: Side = Side.BOTH


class Blackhole(_Fault, frozen=True, kw_only=True, tag="blackhole"):
    """What is sent within the time is lost and sent again by TCP; one side only: a half-open line."""

    edge: int
    at_s: float
    for_s: float
    side: Side = Side.BOTH


class NatForgets(_Fault, frozen=True, kw_only=True, tag="nat_forgets"):
    """All connections that an edge has at the time carry nothing from then on; nobody is told."""

    edge: int
    at_s: float


class Refuse(_Fault, frozen=True, kw_only=True, tag="refuse"):
    """New connections of an edge are refused by a RST."""

    edge: int
    at_s: float
    for_s: float


class Unauthorized(_Fault, frozen=True, kw_only=True, tag="unauthorized"):
    """The server answers upgrades and requests with HTTP 401."""

    at_s: float
    for_s: float
    server: int = 0


class Overload(_Fault, frozen=True, kw_only=True, tag="overload"):
    """The server's connections are all taken: HTTP 429 with `Retry-After`."""

    at_s: float
    for_s: float
    server: int = 0


class Restart(_Fault, frozen=True, kw_only=True, tag="restart"):
    """The server's processes die, and come back after `down_s` with `target` (None: the same)."""

    at_s: float
    down_s: float
    target: str | None = None
    server: int = 0


class EngineDeath(_Fault, frozen=True, kw_only=True, tag="engine_death"):
    """The engine process dies; half a second later the API server goes, too, and both come back."""

    at_s: float
    down_s: float
    server: int = 0


class AbortAll(_Fault, frozen=True, kw_only=True, tag="abort_all"):
    """An operator empties the engine (pause with abort, shutdown with a deadline)."""

    at_s: float
    server: int = 0


class EngineStall(_Fault, frozen=True, kw_only=True, tag="engine_stall"):
    """A step that begins within the time does not end before it is over."""

    at_s: float
    for_s: float
    server: int = 0


class Leave(_Fault, frozen=True, kw_only=True, tag="leave"):
    """The client of a chat goes away."""

    chat: int
    at_s: float


class EdgeCrash(_Fault, frozen=True, kw_only=True, tag="edge_crash"):
    """The edge's process is killed: its kernel resets what is open, its chats end unanswered."""

    edge: int
    at_s: float


class DraftFails(_Fault, frozen=True, kw_only=True, tag="draft_fails"):
    """A call of the draft model raises `ModelError`."""

    edge: int
    call: int
    """Number of the call, from 1."""


class ServerLie(enum.StrEnum):
    """What a server does that breaks the protocol."""

    GARBAGE = "garbage"
    """A frame that decodes to nothing."""
    GAP = "gap"
    """A commit whose base is too high."""
    REWRITE = "rewrite"
    """A commit that contradicts what was committed."""
    REPLAY = "replay"
    """A commit once more. Legal: what is known already is passed over."""
    OUT_OF_VOCABULARY = "out_of_vocabulary"
    """A committed token that no vocabulary has."""
    TEXT_FRAME = "text_frame"
    STRANGE_TURN = "strange_turn"
    """A commit for a turn that was never opened. Legal: it means nothing."""
    UNKNOWN_REASON = "unknown_reason"
    """A finish reason that means nothing."""


class ServerLies(_Fault, frozen=True, kw_only=True, tag="server_lies"):
    """On an edge's connection the server's frame number `frame` (from 1, the welcome is 1) is a lie."""

    edge: int
    connection: int
    frame: int
    lie: ServerLie


class EdgeLie(enum.StrEnum):
    """What an edge does that breaks the protocol, or wastes the server's time."""

    GARBAGE = "garbage"
    TEXT_FRAME = "text_frame"
    BAD_PARENTS = "bad_parents"
    """A draft whose tree points forward."""
    FUTURE_ANCHOR = "future_anchor"
    """A draft that hangs on one that was never sent."""
    OUT_OF_VOCABULARY = "out_of_vocabulary"
    WRONG_DRAFTS = "wrong_drafts"
    """Legal frames full of nonsense tokens, each asking for a pass."""
    OPEN_STORM = "open_storm"
    """Turns opened one over the other without an end."""
    SILENT = "silent"
    """Opens a turn and says nothing more."""
    DEAF = "deaf"
    """Opens turns and never reads."""


class EdgeLies(_Fault, frozen=True, kw_only=True, tag="edge_lies"):
    """A client that is no edge of ours speaks the wire protocol to a server from `at_s` on, for `for_s`."""

    lie: EdgeLie
    at_s: float
    for_s: float = 10.0
    server: int = 0


Fault = (
    Reset
    | Stall
    | Blackhole
    | NatForgets
    | Refuse
    | Unauthorized
    | Overload
    | Restart
    | EngineDeath
    | AbortAll
    | EngineStall
    | Leave
    | EdgeCrash
    | DraftFails
    | ServerLies
    | EdgeLies
)


# -- all of it ----------------------------------------------------------------------------


class Plan(_Data, frozen=True, kw_only=True):
    """One run. `edges`, `chats` and `servers` are named elsewhere by their index."""

    seed: int
    edges: tuple[EdgePlan, ...]
    chats: tuple[Chat, ...]
    servers: tuple[ServerPlan, ...] = (ServerPlan(),)
    faults: tuple[Fault, ...] = ()
    deadline_s: float = 900.0
    """A chat that has not ended by then is cancelled, and its outcome says so."""
    settle_s: float = 400.0
    """How long the world runs on before what is left is counted; 0: nothing is counted."""


def encode_plan(plan: Plan) -> bytes:
    """`plan` as JSON; fields that have their defaults are left out."""
    return msgspec.json.encode(plan)


def decode_plan(data: bytes | str) -> Plan:
    """Raises `msgspec.ValidationError`."""
    return msgspec.json.decode(data, type=Plan)
