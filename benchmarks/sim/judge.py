"""Judges a run: is the text one target's own, is all of it there, is anything left over, was it in time?"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

import msgspec

from benchmarks.sim.limits import fills_up, limit_of, touches
from benchmarks.sim.models import EOS_ID, tokenizer
from benchmarks.sim.outcome import ChatOutcome, Emitted, Leftovers, Outcome, Shown
from benchmarks.sim.plan import (
    AbortAll,
    Api,
    Chat,
    DraftFails,
    EdgeCrash,
    EdgeLies,
    EdgePlan,
    EngineStall,
    Fault,
    Leave,
    Overload,
    Plan,
    Reset,
    Restart,
    ServerLie,
    ServerLies,
    Unauthorized,
)
from edge_agent.api import Fallback, Route, Sampling, Source

__all__ = ["Finding", "Kind", "Reference", "Text", "judge"]


class Kind(enum.StrEnum):
    """What is wrong."""

    DIFFERING = "differing"
    """A token, a mark or a figure that is not what it must be."""
    LOST = "lost"
    """A position was passed over, or an answer ended early that the settings do not let end."""
    DOUBLED = "doubled"
    """A position came twice."""
    HUNG = "hung"
    """A chat never ended, or the loop came to a stop."""
    LEAKED = "leaked"
    """Something was left over."""
    UNTYPED = "untyped"
    """An exception that is none of the product's own."""
    SLOW = "slow"
    """More time or target passes than the faults explain."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `chat` is None where it is the whole run's."""

    kind: Kind
    chat: int | None
    text: str

    def __str__(self) -> str:
        where = "" if self.chat is None else f"chat {self.chat}: "
        return f"{self.kind}: {where}{self.text}"


class Text(NamedTuple):
    """A whole answer: its tokens, and its finish reason."""

    tokens: tuple[int, ...]
    finish_reason: str


Reference = Callable[[str, Sequence[int], Sampling], list[int]]
"""The tokens that the target of a name generates by itself after a prompt (`models.reference`)."""


def judge(outcome: Outcome, clean: Outcome | None, reference: Reference) -> list[Finding]:
    """What is wrong with `outcome`. `clean` is the same plan without its faults; None: time is not judged."""
    findings = [*_run_findings(outcome)]
    for number, chat in enumerate(outcome.chats):
        of_chat = [*_chat_findings(outcome.plan, number, chat, reference)]
        if clean is not None and not of_chat:
            of_chat += _slow_findings(outcome.plan, number, chat, clean.chats[number])
        findings += of_chat
    return findings


# -- the run ------------------------------------------------------------------------------


def _run_findings(outcome: Outcome) -> Iterator[Finding]:
    for problem in outcome.problems:
        stopped = problem.startswith(("Deadlock", "deadlock", "time stands still", "TimeStandsStill"))
        yield Finding(Kind.HUNG if stopped else Kind.UNTYPED, None, problem)
    left = _left_over(outcome.leftovers)
    if left:
        yield Finding(Kind.LEAKED, None, left)


def _left_over(left: Leftovers) -> str:
    counts = {f.name: getattr(left, f.name) for f in fields(Leftovers) if f.name != "names"}
    found = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    return f"{found} left ({', '.join(left.names)})" if found and left.names else found and f"{found} left"


# -- a chat -------------------------------------------------------------------------------


def _chat_findings(plan: Plan, number: int, chat: ChatOutcome, reference: Reference) -> Iterator[Finding]:
    def finding(kind: Kind, text: str) -> Finding:
        return Finding(kind, number, text)

    asked = plan.chats[number]
    prompt = chat.prompt or asked.prompt
    answers = {
        name: [_text(reference(name, prompt, own), asked) for own in _samplings(asked)]
        for name in _targets(plan, asked)
    }
    if asked.api is not Api.AGENT:
        yield from (finding(kind, text) for kind, text in _shown(plan, number, chat, [*answers.values()]))
        return
    texts = {name: answer for name, (answer,) in answers.items()}
    verified = _verified(chat.tokens)
    yield from (finding(kind, text) for kind, text in _order(chat.tokens, len(verified)))
    fitting = [text for text in texts.values() if text.tokens[: len(verified)] == verified]
    if not fitting:
        yield finding(*_difference(verified, texts))
        return
    yield from (finding(Kind.DIFFERING, text) for text in _figures(plan, asked, chat))
    yield from (finding(kind, text) for kind, text in _end(plan, number, chat, verified, fitting))


def _samplings(asked: Chat) -> list[Sampling]:
    """Those of a chat's answers: vLLM gives each the seed after the one before."""
    sampling = asked.sampling
    if asked.n == 1 or sampling.seed is None:
        return [sampling]
    return [msgspec.structs.replace(sampling, seed=sampling.seed + i) for i in range(asked.n)]


def _targets(plan: Plan, asked: Chat) -> list[str]:
    """Names of the targets that may have answered a chat."""
    server = plan.edges[asked.edge].server
    names = [plan.servers[server].target]
    names += [f.target for f in plan.faults if isinstance(f, Restart) and f.server == server and f.target]
    return list(dict.fromkeys(names))


def _text(tokens: Sequence[int], asked: Chat) -> Text:
    sampling = asked.sampling
    stops = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS_ID,))}
    stopped = bool(tokens) and tokens[-1] in stops and len(tokens) >= sampling.min_tokens
    return Text(tuple(tokens), "stop" if stopped else "length")


def _verified(tokens: Sequence[Emitted]) -> tuple[int, ...]:
    """The tokens in front of the first unverified one."""
    verified = []
    for token in tokens:
        if not token.verified:
            break
        verified.append(token.token_id)
    return tuple(verified)


def _order(tokens: Sequence[Emitted], num_verified: int) -> Iterator[tuple[Kind, str]]:
    for index, token in enumerate(tokens):
        if token.position != index:
            kind = Kind.LOST if token.position > index else Kind.DOUBLED
            yield kind, f"position {token.position} where {index} is due"
            return
    if any(token.verified for token in tokens[num_verified:]):
        yield Kind.DIFFERING, "a token that is marked verified after one that is not"


_LOOK: Final = 3
"""So many tokens tell where in the text a token comes from."""


def _difference(verified: tuple[int, ...], texts: dict[str, Text]) -> tuple[Kind, str]:
    """What is wrong with `verified`, which is the beginning of no text."""

    def common(text: Text) -> int:
        pairs = zip(verified, text.tokens, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(verified), len(text.tokens)))

    name = max(texts, key=lambda n: common(texts[n]))
    right = texts[name].tokens
    at = common(texts[name])
    if at >= len(right):
        return Kind.DOUBLED, f"{len(verified) - at} tokens beyond the end of the answer of {name}"
    rest = verified[at : at + _LOOK]
    for other, text in texts.items():
        if other != name and text.tokens[at : at + len(rest)] == rest:
            return Kind.DIFFERING, f"{name}'s answer goes on with {other}'s tokens at position {at}"
    for there in range(max(0, at - 64), min(len(right), at + 64)):
        if there != at and right[there : there + len(rest)] == rest and len(rest) == _LOOK:
            kind = Kind.DOUBLED if there < at else Kind.LOST
            return kind, f"position {there} of {name}'s answer came where {at} was due"
    if at and verified[at] == verified[at - 1] and verified[at + 1 : at + 2] == right[at : at + 1]:
        return Kind.DOUBLED, f"the token of position {at - 1} came twice"
    return Kind.DIFFERING, f"{list(rest)} at position {at} instead of {name}'s {list(right[at : at + _LOOK])}"


def _end(
    plan: Plan, number: int, chat: ChatOutcome, verified: tuple[int, ...], fitting: Sequence[Text]
) -> Iterator[tuple[Kind, str]]:
    if chat.end.finish_reason is None:
        yield from _unfinished(plan, number, chat)
        return
    asked = plan.chats[number]
    touching = [fault for fault in plan.faults if touches(plan, fault, number)]
    yield from _whole(asked, plan.edges[asked.edge], chat, verified, fitting, touching)


def _unfinished(plan: Plan, number: int, chat: ChatOutcome) -> Iterator[tuple[Kind, str]]:
    """An answer that ended in an error, or not at all."""
    end, asked = chat.end, plan.chats[number]
    edge = plan.edges[asked.edge]
    touching = [fault for fault in plan.faults if touches(plan, fault, number)]
    if end.bug is not None:
        yield Kind.UNTYPED, end.bug
    elif end.left:
        if not any(isinstance(fault, Leave | EdgeCrash) for fault in touching):
            yield Kind.LOST, "the client left, which nobody told it to"
    elif end.error is not None:
        if end.error not in _allowed_errors(plan, asked, edge, touching):
            yield Kind.LOST, f"{end.error} after {len(chat.tokens)} tokens ({edge.fallback}): {end.message}"
    else:
        yield Kind.HUNG, f"not ended after {plan.deadline_s:g} s, {len(chat.tokens)} tokens"


def _shown(
    plan: Plan, number: int, chat: ChatOutcome, answers: Sequence[Sequence[Text]]
) -> Iterator[tuple[Kind, str]]:
    """A chat at the gateway: its texts, in whatever pieces, are what one target's tokens say.

    `answers` are those of each target, by choice.
    """
    asked = plan.chats[number]
    edge = plan.edges[asked.edge]
    shown = [chat.shown.get(i, Shown()) for i in range(asked.n)]
    texts = ["".join(each.text).rstrip(_BROKEN) for each in shown]
    rest_is_free = chat.marked_verified is False or asked.route is Route.LOCAL
    wanted = [[(_decoded(text).rstrip(_BROKEN), text.finish_reason) for text in own] for own in answers]
    events = [json.loads(data) for data in chat.chunks if data != "[DONE]"]
    choices = [choice for event in events for choice in event.get("choices", ())]
    roles = [choice["index"] for choice in choices if "role" in (choice.get("delta") or {})]
    if len(set(roles)) < len(roles):
        yield Kind.DOUBLED, "the chunk with the role came twice"
    if len({event["id"] for event in events if "id" in event}) > 1:
        yield Kind.DIFFERING, "chunks of one answer with several ids"
    if chat.end.finish_reason is None:
        yield from _unfinished(plan, number, chat)
        begins = any(
            all(right.startswith(text) for text, (right, _) in zip(texts, own, strict=True)) for own in wanted
        )
        if not begins and not rest_is_free:
            yield Kind.DIFFERING, f"{[text[-40:] for text in texts]} ends what is the beginning of no answer"
    elif rest_is_free:
        touching = [fault for fault in plan.faults if touches(plan, fault, number)]
        may_be = edge.fallback is Fallback.LOCAL and any(map(_cuts_off, touching))
        if asked.route is not Route.LOCAL and (not may_be or _must_survive(edge, touching)):
            yield Kind.LOST, f"an unverified answer with the fallback {edge.fallback}: {chat.route_reason}"
    elif [(text, each.finish_reason) for text, each in zip(texts, shown, strict=True)] not in wanted:
        for choice, (text, (right, reason)) in enumerate(zip(texts, wanted[0], strict=True)):
            if (text, shown[choice].finish_reason) != (right, reason):
                at = next((i for i, (a, b) in enumerate(zip(text, right, strict=False)) if a != b), len(text))
                found = f"{text[at : at + 20]!r} ({shown[choice].finish_reason})"
                instead = f"{right[at : at + 20]!r} ({reason})"
                yield Kind.DIFFERING, f"choice {choice}, at character {at}: {found} instead of {instead}"


_BROKEN: Final = "\ufffd"
"""Stands for the beginning of a character whose end did not come."""


def _decoded(text: Text) -> str:
    """What a client reads: without the token that stopped the answer."""
    tokens = text.tokens[:-1] if text.finish_reason == "stop" else text.tokens
    return str(tokenizer().decode(list(tokens)))


def _whole(
    asked: Chat,
    edge: EdgePlan,
    chat: ChatOutcome,
    verified: tuple[int, ...],
    fitting: Sequence[Text],
    touching: Sequence[Fault],
) -> Iterator[tuple[Kind, str]]:
    """An answer that says it is whole."""
    num_unverified = len(chat.tokens) - len(verified)
    reason = chat.end.finish_reason
    if asked.route is Route.LOCAL:
        if verified:
            yield Kind.DIFFERING, "verified tokens on the route local"
    elif edge.fallback is not Fallback.LOCAL and num_unverified:
        yield Kind.DIFFERING, f"{num_unverified} unverified tokens with the fallback {edge.fallback}"
    elif num_unverified and (_must_survive(edge, touching) or not any(map(_cuts_off, touching))):
        yield Kind.LOST, f"{num_unverified} unverified tokens, though the verifier was within reach"
    if not num_unverified and asked.route is not Route.LOCAL and edge.fallback is Fallback.LOCAL:
        full = any(text.tokens == verified for text in fitting)
        if not full and any(map(_cuts_off, touching)) and _draft_is_full(asked, edge, chat):
            return
    if not num_unverified and asked.route is not Route.LOCAL:
        if not any(text == (verified, reason) for text in fitting):
            wanted = [(len(text.tokens), text.finish_reason) for text in fitting]
            yield Kind.LOST, f"ended ({reason}) after {len(verified)} tokens; whole: {wanted}"
    elif len(chat.tokens) > asked.sampling.max_tokens:
        yield Kind.DOUBLED, f"{len(chat.tokens)} tokens, at most {asked.sampling.max_tokens} were asked for"
    elif (
        reason == "length"
        and len(chat.tokens) < asked.sampling.max_tokens
        and not _draft_is_full(asked, edge, chat)
    ):
        yield Kind.LOST, f"ended ({reason}) after {len(chat.tokens)} of {asked.sampling.max_tokens} tokens"
    if chat.marked_verified is not None and chat.marked_verified != (num_unverified == 0):
        yield Kind.DIFFERING, f"marked verified: {chat.marked_verified}, unverified tokens: {num_unverified}"
    if num_unverified and asked.route is not Route.LOCAL and chat.route not in ("", Route.LOCAL):
        yield Kind.DIFFERING, f"unverified tokens on the route {chat.route}"


def _draft_is_full(asked: Chat, edge: EdgePlan, chat: ChatOutcome) -> bool:
    """Whether the draft model's context ended a local answer."""
    return len(chat.prompt or asked.prompt) + len(chat.tokens) >= edge.context_length - 1


_AWAY: Final = frozenset({"CloudUnreachable", "TargetChanged", "cloud_unreachable"})
_BUSY: Final = frozenset({"CloudOverloaded", "overloaded"})
_CHANGED: Final = frozenset({"TargetChanged", "cloud_unreachable"})
_GONE: Final = frozenset({"model_not_found"})
"""At the gateway, which serves the target of the moment."""
_REFUSED: Final = frozenset({"CloudRefused", "invalid_api_key"})
_MISBEHAVED: Final = frozenset({"CloudMisbehaved", "cloud_misbehaved"})
_FULL: Final = frozenset({"DraftCapacityError", "draft_busy"})
_FAILED: Final = frozenset({"ModelError", "configuration_error"})
_LEGAL_LIES: Final = frozenset({ServerLie.REPLAY, ServerLie.STRANGE_TURN})


def _cuts_off(fault: Fault) -> bool:
    """Whether `fault` can take a chat's verifier from it."""
    return not isinstance(fault, EngineStall | DraftFails | Leave | EdgeLies)


_ROOMY_CONTEXT: Final = 512
"""Longer than prompt and answer of any generated chat."""
_FAST_RTT_S: Final = 0.1
_FAST_BYTES_S: Final = 1e5
_MOST_CUTS: Final = 2


def _must_survive(edge: EdgePlan, touching: Sequence[Fault]) -> bool:
    """Whether what befell a chat must cost it time alone, whatever the fallback: cuts on a fast line."""
    link = edge.link
    is_fast = 2 * (link.delay_s + link.jitter_s) <= _FAST_RTT_S and link.bytes_s >= _FAST_BYTES_S
    cuts = [fault for fault in touching if _cuts_off(fault)]
    return is_fast and len(cuts) <= _MOST_CUTS and all(isinstance(f, Reset | AbortAll) for f in cuts)


def _allowed_errors(plan: Plan, asked: Chat, edge: EdgePlan, touching: Sequence[Fault]) -> frozenset[str]:
    """Names of the errors that may end a chat, by its edge's fallback and by what befell it."""
    allowed: frozenset[str] = frozenset()
    for fault in touching:
        if isinstance(fault, Unauthorized):
            allowed |= _REFUSED
        elif isinstance(fault, ServerLies) and fault.lie is ServerLie.UNKNOWN_REASON:
            allowed |= _REFUSED  # the answer may be whole, and cannot be opened again
        elif isinstance(fault, ServerLies) and (fault.lie not in _LEGAL_LIES or fault.frame <= 2):
            allowed |= _MISBEHAVED
        elif isinstance(fault, Restart) and fault.target:
            allowed |= _GONE if edge.fallback is Fallback.LOCAL else _GONE | _CHANGED
        elif isinstance(fault, DraftFails) and (
            asked.route is Route.LOCAL or edge.fallback is Fallback.LOCAL
        ):
            allowed |= _FAILED
            if any(map(_cuts_off, touching)):
                allowed |= _AWAY  # what the answer began with is told where the draft model fails, too
    no_room = not _has_room(plan, asked, edge)
    if asked.route is Route.LOCAL:
        return allowed | _FULL if no_room else allowed
    if _must_survive(edge, touching):
        return allowed
    none_locally = no_room or asked.n > 1  # the draft model gives one answer
    if edge.fallback is Fallback.ERROR or (edge.fallback is Fallback.LOCAL and none_locally):
        if any(map(_cuts_off, touching)):
            allowed |= _AWAY
        if any(isinstance(fault, Overload) for fault in touching) or fills_up(plan, edge.server):
            allowed |= _BUSY
    return allowed


def _has_room(plan: Plan, asked: Chat, edge: EdgePlan) -> bool:
    """Whether the draft model can always take the chat in."""
    on_edge = sum(chat.edge == asked.edge for chat in plan.chats)
    return edge.drafts and edge.max_sequences >= on_edge and edge.context_length >= _ROOMY_CONTEXT


def _figures(plan: Plan, asked: Chat, chat: ChatOutcome) -> Iterator[str]:
    """Figures that do not add up."""
    stats = chat.stats
    if stats is None or chat.end.left:
        return
    num_unverified = sum(not token.verified for token in chat.tokens)
    if stats.completion_tokens != len(chat.tokens):
        yield f"the figures say {stats.completion_tokens} tokens, {len(chat.tokens)} came"
    if stats.unverified_tokens != num_unverified:
        yield f"the figures say {stats.unverified_tokens} unverified tokens, {num_unverified} came"
    if stats.draft_tokens_accepted > stats.draft_tokens_verified:
        yield f"{stats.draft_tokens_accepted} drafts accepted of {stats.draft_tokens_verified} verified"
    if stats.draft_tokens_verified > stats.draft_tokens_sent:
        yield f"{stats.draft_tokens_verified} drafts verified, {stats.draft_tokens_sent} sent"
    if stats.draft_tokens_accepted > len(chat.tokens) - num_unverified:
        yield f"{stats.draft_tokens_accepted} drafts accepted, {len(chat.tokens)} tokens"
    num_agreed = sum(token.source in (Source.DRAFTED, Source.LOOKED_UP) for token in chat.tokens)
    if stats.draft_tokens_accepted > num_agreed:
        yield f"{stats.draft_tokens_accepted} drafts accepted, {num_agreed} tokens marked as such"
    if stats.target_passes > chat.target_passes:
        yield f"the figures say {stats.target_passes} passes, the engine made {chat.target_passes}"
    # Without room for drafts a turn is opened once more, and a pass of the first opening may be lost.
    opened_once = not plan.faults and _has_room(plan, asked, plan.edges[asked.edge])
    # Under async scheduling the step after one that stops an answer is under way by then.
    num_beyond = plan.servers[plan.edges[asked.edge].server].async_scheduling
    missing = chat.target_passes - stats.target_passes
    if opened_once and asked.route is not Route.LOCAL and missing > num_beyond:
        yield f"the figures say {stats.target_passes} passes, the engine made {chat.target_passes}"
    if chat.tokens and stats.tpt_ms is not None and chat.took_s is not None:
        total_s = stats.tpt_ms * stats.completion_tokens / 1e3
        if not -1e-6 <= total_s <= chat.took_s + 1e-6:
            yield f"the figures say {total_s:.3f} s, the chat took {chat.took_s:.3f} s"


# -- time ---------------------------------------------------------------------------------


def _slow_findings(plan: Plan, number: int, chat: ChatOutcome, clean: ChatOutcome) -> Iterator[Finding]:
    ended = clean.took_s is not None and chat.took_s is not None
    if not ended or chat.end.left or clean.end.finish_reason is None:
        return
    limit = limit_of(plan, number, clean)
    assert chat.took_s is not None
    assert clean.took_s is not None
    if chat.took_s > limit.seconds:
        text = (
            f"{chat.took_s:.1f} s where {limit.seconds:.1f} are allowed ({clean.took_s:.1f} without faults)"
        )
        yield Finding(Kind.SLOW, number, text)
    if chat.target_passes > limit.passes:
        allowed = f"{limit.passes:.0f} are allowed ({clean.target_passes} without faults)"
        text = f"{chat.target_passes} passes where {allowed}"
        yield Finding(Kind.SLOW, number, text)
