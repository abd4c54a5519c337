"""Two servers of one target: the first is lost at every moment of an answer, and the second goes on."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.sim.outcome import Leftovers, Outcome
from benchmarks.sim.plan import (
    Api,
    Blackhole,
    Chat,
    EdgePlan,
    EngineDeath,
    Fault,
    LinkPlan,
    Overload,
    Plan,
    Restart,
    ServerPlan,
    StepCost,
)
from benchmarks.sim.world import answer_alone, run
from edge_agent.api import Fallback, SessionMode
from pipesd_vllm.wire import Sampling, Structure, StructureKind

PROMPT = tuple(range(300, 320))
SAMPLING = Sampling(max_tokens=24, ignore_eos=True)
STEP_S = 0.02
DOWN_S = 300.0
EDGE = EdgePlan(replicas=(1,), link=LinkPlan(delay_s=0.005), fallback=Fallback.LOCAL)


def failing_over(chat: Chat, *faults: Fault, second: str = "target") -> Outcome:
    servers = tuple(ServerPlan(target=name, step=StepCost(base_s=STEP_S)) for name in ("target", second))
    return run(Plan(seed=1, servers=servers, edges=(EDGE,), chats=(chat,), faults=faults, settle_s=100.0))


def chat_of(mode: SessionMode = SessionMode.AUTO, sampling: Sampling = SAMPLING) -> Chat:
    return Chat(prompt=PROMPT, sampling=sampling, mode=mode)


def moments(num: int) -> list[float]:
    """Seconds at which the first server is lost: before the answer, at each of its steps, after it."""
    return [round((number + 0.5) * STEP_S, 4) for number in range(num)]


@pytest.mark.parametrize("mode", SessionMode)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_token(mode: SessionMode, temperature: float) -> None:
    """The text is the target's, each position once, nothing of it from the draft model; nothing is left."""
    sampling = msgspec.structs.replace(SAMPLING, temperature=temperature, seed=7)
    chat = chat_of(mode, sampling)
    expected = answer_alone("target", PROMPT, sampling)
    for at_s in moments(28):
        outcome = failing_over(chat, Restart(at_s=at_s, down_s=DOWN_S))
        [told] = outcome.chats
        assert told.end.finish_reason == "length", (at_s, told.end)
        assert told.token_ids == expected, at_s
        assert [token.position for token in told.tokens] == list(range(len(expected)))
        assert all(token.verified for token in told.tokens), at_s
        assert (outcome.problems, outcome.leftovers) == ([], Leftovers())


def test_a_structured_answer() -> None:
    """The grammar goes on where it was."""
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    structure = Structure(StructureKind.JSON_SCHEMA, schema)
    sampling = Sampling(max_tokens=24, structure=structure, temperature=0.7, seed=3)
    expected = answer_alone("target", PROMPT, sampling)
    for at_s in moments(12):
        [told] = failing_over(chat_of(sampling=sampling), Restart(at_s=at_s, down_s=DOWN_S)).chats
        assert told.token_ids == expected, at_s


@pytest.mark.parametrize(
    "fault",
    [
        EngineDeath(at_s=0.2, down_s=DOWN_S),
        Blackhole(edge=0, at_s=0.2, for_s=DOWN_S),
        Overload(at_s=0.0, for_s=DOWN_S),
    ],
    ids=["engine", "network", "full"],
)
def test_every_way_to_fail(fault: Fault) -> None:
    """Also a server that still takes connections, and one that has no room for another."""
    [told] = failing_over(chat_of(), fault).chats
    assert told.token_ids == answer_alone("target", PROMPT, SAMPLING)
    assert all(token.verified for token in told.tokens)


@pytest.mark.parametrize("at_s", moments(28)[::3])
def test_a_replica_with_another_target_is_none(at_s: float) -> None:
    """Before the first token it may give the answer; after it the draft model goes on, and says so."""
    [told] = failing_over(chat_of(), Restart(at_s=at_s, down_s=DOWN_S), second="other").chats
    texts = {name: answer_alone(name, PROMPT, SAMPLING) for name in ("target", "other")}
    verified = [token.token_id for token in told.tokens if token.verified]
    assert any(verified == text[: len(verified)] for text in texts.values())
    assert told.end.finish_reason == "length"


def test_an_answer_of_the_api() -> None:
    """Its chunks go on where they were, at every token."""
    chat = Chat(prompt=PROMPT, sampling=SAMPLING, mode=SessionMode.AUTO, api=Api.CHAT)
    undisturbed = failing_over(chat).chats[0]
    for at_s in moments(28)[::2]:
        [told] = failing_over(chat, Restart(at_s=at_s, down_s=DOWN_S)).chats
        assert told.token_ids == undisturbed.token_ids, at_s
        assert told.end == undisturbed.end
