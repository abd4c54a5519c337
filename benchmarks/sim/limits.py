"""How much time and how many target passes a chat may take with faults, given the same plan without them.

Verification protects the text, and the server's patience its end: a bug that makes an answer late or wasteful
shows in nothing else. A run without faults has no noise, so it is the yardstick, and each fault is allowed
what it lasts and what noticing it, a new connection and a new prefill take.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from benchmarks.sim.outcome import ChatOutcome
from benchmarks.sim.plan import (
    AbortAll,
    Blackhole,
    Chat,
    DraftFails,
    EdgeCrash,
    EdgeLie,
    EdgeLies,
    EdgePlan,
    EngineDeath,
    EngineStall,
    Fault,
    Leave,
    NatForgets,
    Overload,
    Plan,
    Refuse,
    Reset,
    Restart,
    ServerLies,
    Stall,
    Unauthorized,
)
from edge_agent.api import SessionMode

__all__ = ["Limit", "fills_up", "limit_of", "touches"]

_FACTOR: Final = 1.5
"""After a loss the policy measures anew, and windows lie elsewhere."""
_SLACK_S: Final = 2.0
_SLACK_PASSES: Final = 6
_PASSES_A_LOSS: Final = 8
"""A prefill, and the drafts that were under way."""
_SILENCE_S: Final = 10.0
"""Until the edge's keepalive takes a silent connection for dead."""
_GHOST_S: Final = 40.0
"""Until the server's pings (20 s, and 20 s for the answer) do so on its side."""
_BACKOFF_S: Final = 5.0
"""The edge's delays between attempts, and attempts that it cuts short at first."""
_RETRY_AFTER_S: Final = 7.5
_LONGEST_DELAY_S: Final = 3.0
_BYTES_A_TOKEN: Final = 5
_SLOWEST_UPLINK: Final = 8000.0
_HANDSHAKE_BYTES: Final = 2000
_BUSY_LIES: Final = frozenset({EdgeLie.OPEN_STORM, EdgeLie.DEAF, EdgeLie.WRONG_DRAFTS})
"""Those whose turns keep the target busy."""


class Limit(NamedTuple):
    """What a chat may take: virtual seconds, and target passes."""

    seconds: float
    passes: float


def touches(plan: Plan, fault: Fault, number: int) -> bool:
    """Whether `fault` befalls the chat `number`, its edge or its server."""
    chat = plan.chats[number]
    match fault:
        case Leave(chat=left):
            return left == number
        case (
            Reset(edge=edge)
            | Stall(edge=edge)
            | Blackhole(edge=edge)
            | NatForgets(edge=edge)
            | Refuse(edge=edge)
            | EdgeCrash(edge=edge)
            | DraftFails(edge=edge)
            | ServerLies(edge=edge)
        ):
            return edge == chat.edge
        case _:
            return fault.server == plan.edges[chat.edge].server


def fills_up(plan: Plan, server: int) -> bool:
    """Whether dead connections, which a server counts until it notices, may take all its places."""
    dying = sum(isinstance(fault, Blackhole | Stall | NatForgets | EdgeLies) for fault in plan.faults)
    chats = sum(plan.edges[chat.edge].server == server for chat in plan.chats)
    return bool(dying) and plan.servers[server].max_sessions < dying * (chats + 1) + chats


def limit_of(plan: Plan, number: int, clean: ChatOutcome) -> Limit:
    """The limit for chat `number` of `plan`; `clean` is what came of it without faults, where it ended."""
    assert clean.took_s is not None, "the yardstick has ended"
    chat = plan.chats[number]
    edge = plan.edges[chat.edge]
    server = plan.servers[edge.server]
    others = [c for i, c in enumerate(plan.chats) if i != number and plan.edges[c.edge].server == edge.server]
    on_server = [f for f in plan.faults if _server_of(plan, f) == edge.server]
    # A chat that a fault holds up meets others that it did not meet before: their tokens are in its steps.
    met = chat.n - 1 + sum(other.n for other in others) + sum(isinstance(f, EdgeLies) for f in on_server)
    crowd = 1 + met * (1 + server.max_draft) * server.step.token_s / server.step.base_s
    if met:
        crowd *= 2  # a step of theirs is under way when this one's drafts come
    waiting_s = _waiting_s(chat, edge, server.step.base_s, clean.target_passes)
    seconds = max(_FACTOR * crowd * clean.took_s, waiting_s) + _SLACK_S
    passes = _FACTOR * clean.target_passes + chat.n * _SLACK_PASSES
    passes += chat.n * min(chat.sampling.max_tokens, _streamed_beside(plan, number))
    for fault in plan.faults:
        if touches(plan, fault, number):
            allowed = _allowance(plan, fault, chat, edge, crowd)
            seconds += allowed.seconds
            passes += chat.n * allowed.passes
    if fills_up(plan, edge.server):
        seconds += _GHOST_S + _RETRY_AFTER_S
    if _is_crowded(plan, edge.server):
        seconds += sum(_streaming_s(plan, other) for other in others)
        silent = sum(isinstance(f, Blackhole | Stall | NatForgets | EdgeLies | EdgeCrash) for f in on_server)
        longest = max((_streaming_s(plan, c) for c in plan.chats), default=0.0)
        seconds += silent * longest + sum(_allowance(plan, f, chat, edge, crowd).seconds for f in on_server)
        passes += chat.n * chat.sampling.max_tokens
    return Limit(seconds, passes)


def _server_of(plan: Plan, fault: Fault) -> int:
    match fault:
        case Leave(chat=number):
            return plan.edges[plan.chats[number].edge].server
        case (
            Unauthorized() | Overload() | Restart() | EngineDeath() | AbortAll() | EngineStall() | EdgeLies()
        ):
            return fault.server
        case _:
            return plan.edges[fault.edge].server


def _is_crowded(plan: Plan, server: int) -> bool:
    """Whether sessions of `server` may have to wait for each other's seats or blocks."""
    chats = [c for c in plan.chats if plan.edges[c.edge].server == server for _ in range(c.n)]
    lies = sum(isinstance(f, EdgeLies) and f.server == server for f in plan.faults)
    silent = sum(isinstance(f, Blackhole | Stall | NatForgets) for f in plan.faults)
    spec = plan.servers[server]
    blocks = sum(-(-(len(c.prompt) + c.sampling.max_tokens + spec.max_draft) // 16) + 1 for c in chats)
    ghosts = silent + 4 * lies
    largest = max((blocks // max(1, len(chats))), 1)
    return len(chats) + ghosts > spec.max_num_seqs or blocks + ghosts * largest > spec.num_blocks


def _streaming_s(plan: Plan, chat: Chat) -> float:
    """An upper bound for what the target needs to stream `chat` alone."""
    step = plan.servers[plan.edges[chat.edge].server].step
    tokens = chat.n * chat.sampling.max_tokens
    context = step.context_s * (len(chat.prompt) + tokens)
    return (tokens + 1) * (step.base_s + context) + len(chat.prompt) * step.token_s


def _streamed_beside(plan: Plan, number: int) -> int:
    """Tokens that others may stream beside chat `number` for a fault that befalls them, or brings it to them.

    A step verifies no drafts that would make it longer for those who stream in it.
    """
    server = plan.edges[plan.chats[number].edge].server
    faults = [fault for fault in plan.faults if not isinstance(fault, Leave | EdgeCrash)]
    return sum(
        other.n * other.sampling.max_tokens
        for i, other in enumerate(plan.chats)
        if i != number
        and plan.edges[other.edge].server == server
        and any(touches(plan, fault, i) or touches(plan, fault, number) for fault in faults)
    )


def _waiting_s(chat: Chat, edge: EdgePlan, step_s: float, passes: int) -> float:
    """About what `chat` takes if its server waits for drafts as its mode says; 0: it did so without faults.

    A server that decodes by itself until drafts come outruns slow ones, and makes more `passes` for it. Where
    a fault holds it up they fit, and from then on it waits for each next one.
    """
    if chat.mode not in (SessionMode.OFFLOAD, SessionMode.BALANCED) or not edge.drafts:
        return 0.0
    tokens = chat.sampling.max_tokens
    window = min(edge.parameters.max_window, tokens)
    rounds = 1 + tokens * (1 - edge.agreement + 1 / (window + 1))
    if passes <= rounds:
        return 0.0
    wait_s = _rtt_s(edge) + window * (edge.draft.call_s + edge.draft.token_s)
    if chat.mode is SessionMode.BALANCED:
        wait_s = min(wait_s, edge.parameters.patience_ms / 1e3)
    return rounds * (wait_s + step_s)


def _allowance(plan: Plan, fault: Fault, chat: Chat, edge: EdgePlan, crowd: float) -> Limit:
    """What `fault` may cost `chat`."""
    step = plan.servers[edge.server].step
    recover_s = _recover_s(chat, edge, crowd * (step.base_s + step.context_s * 512))
    silence_s = _SILENCE_S + _open_bytes(chat) / _SLOWEST_UPLINK
    loss = _PASSES_A_LOSS
    if chat.mode is not SessionMode.OFFLOAD:
        # Until drafts are there again the server decodes by itself.
        loss += int(2 * (_rtt_s(edge) + 4 * edge.draft.call_s) / step.base_s)
    tokens = chat.sampling.max_tokens
    match fault:
        case Reset() | AbortAll() | ServerLies():
            return Limit(recover_s, loss)
        case Stall(for_s=for_s):
            return Limit(for_s + silence_s + recover_s, loss + tokens)
        case Blackhole(for_s=for_s):
            # TCP waits up to as long again before it repeats what was lost.
            return Limit(2 * for_s + 2 * silence_s + recover_s, loss + tokens)
        case NatForgets():
            return Limit(silence_s + recover_s, loss + tokens)
        case Refuse(for_s=for_s) | Unauthorized(for_s=for_s):
            return Limit(for_s + _LONGEST_DELAY_S + recover_s, loss)
        case Overload(for_s=for_s):
            return Limit(for_s + _RETRY_AFTER_S + recover_s, loss)
        case Restart(down_s=down_s, target=target):
            if target is not None:
                loss += tokens  # drafts agree with the target before, which may have given nothing yet
            return Limit(down_s + _LONGEST_DELAY_S + silence_s + recover_s, loss)
        case EngineDeath(down_s=down_s):
            return Limit(0.5 + down_s + _LONGEST_DELAY_S + silence_s + recover_s, loss)
        case EngineStall(for_s=for_s):
            return Limit(for_s + recover_s, loss)
        case DraftFails():
            return Limit(_streaming_s(plan, chat) * crowd + recover_s, loss + tokens)
        case EdgeLies(lie=lie, for_s=for_s):
            if lie in _BUSY_LIES:
                # As in `_streamed_beside`.
                loss += min(tokens, int(2 * for_s / step.base_s))
            return Limit(2 * for_s + recover_s, loss)
        case Leave() | EdgeCrash():
            return Limit(0.0, 0)


def _recover_s(chat: Chat, edge: EdgePlan, step_s: float) -> float:
    """A new connection, the turn opened on it, and the first drafts there."""
    patience_s = edge.parameters.patience_ms / 1e3 if chat.mode is SessionMode.BALANCED else 0.0
    drafts_s = 4 * edge.draft.call_s + edge.draft.token_s * (len(chat.prompt) + chat.sampling.max_tokens)
    wire_s = 10 * _rtt_s(edge) + 4 * (_HANDSHAKE_BYTES + _open_bytes(chat)) / edge.link.bytes_s
    return _BACKOFF_S + wire_s + 6 * step_s + patience_s + drafts_s


def _rtt_s(edge: EdgePlan) -> float:
    return 2 * (edge.link.delay_s + edge.link.jitter_s)


def _open_bytes(chat: Chat) -> int:
    return _BYTES_A_TOKEN * (len(chat.prompt) + chat.sampling.max_tokens)
