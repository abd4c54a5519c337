"""At any temperature a session's text is that of the plain API for the same seed, whatever is drafted."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from pipesd_vllm.wire import NO_SEED, Mode, Open, RefusalCode, Sampling, Structure, StructureKind
from tests.conftest import Verifier

from .drafting_edge import DraftingEdge
from .session_client import edge_of, plain_tokens, target_only

pytestmark = pytest.mark.engine

PROMPTS = [
    [504, 2365, 282, 260, 1838, 314],
    [1604, 6330, 338, 253, 4687, 28],
    [985, 597, 355, 6354, 30],
]
NUM_TOKENS = 24
PENALTIES = {"presence_penalty": 0.6, "frequency_penalty": 0.4, "repetition_penalty": 1.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "T=1": {"temperature": 1.0},
    "T=0.7, top_p": {"temperature": 0.7, "top_p": 0.9},
    "T=1, penalties": {"temperature": 1.0, **PENALTIES},
    "T=0.7, everything": {
        "temperature": 0.7,
        "top_p": 0.95,
        "top_k": 200,
        "min_tokens": 10,
        "stop_token_ids": [28, 30],
        "bad_words": ["the", "of the"],
        **PENALTIES,
    },
    "T=0, penalties": {"temperature": 0.0, **PENALTIES},
    "T=1, few tokens": {"temperature": 1.0, "allowed_token_ids": list(range(300, 400))},
    "T=1, min_p": {"temperature": 1.0, "min_p": 0.02, "logit_bias": {28: -100.0, 260: 2.0}},
}
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


def sampling(fields: dict[str, Any], seed: int, num_tokens: int = NUM_TOKENS) -> Sampling:
    return Sampling(num_tokens, seed=seed, ignore_eos=True, **fields)


def opened(prompt: list[int], how: Sampling, committed: Sequence[int] = ()) -> Open:
    return Open(1, prompt, how, Mode.OFFLOAD, committed=list(committed))


async def drafted(
    verifier: Verifier,
    prompt: list[int],
    how: Sampling,
    truth: list[int],
    seed: int = 0,
    committed: Sequence[int] = (),
) -> DraftingEdge:
    """A whole turn under random drafts."""
    async with edge_of(verifier) as edge:
        drafting = DraftingEdge(edge, opened(prompt, how, committed), truth)
        await drafting.run(random.Random(seed))
        return drafting


async def undrafted(verifier: Verifier, prompt: list[int], how: Sampling) -> list[int]:
    """A whole turn that the server decodes alone."""
    async with edge_of(verifier) as edge:
        await edge.send(Open(1, prompt, how, Mode.LATENCY))
        tokens: list[int] = []
        while True:
            commit = await edge.commit(1)
            tokens += commit.tokens
            if commit.finish_reason is not None:
                return tokens


@pytest.mark.parametrize("name", SETTINGS)
async def test_random_drafts_change_nothing(verifier: Verifier, name: str) -> None:
    """Under right and wrong drafts the committed stream is the text of the same request without a session."""
    fields = SETTINGS[name]
    truth = target_only(verifier, PROMPTS[0], NUM_TOKENS, seed=17, **fields)["token_ids"]
    got = await drafted(verifier, PROMPTS[0], sampling(fields, 17), truth)
    assert got.tokens == truth
    assert got.accepted > 0, "no draft was ever right: the test tests nothing"


async def test_the_seed_decides(verifier: Verifier) -> None:
    """Another seed gives another text, the same seed the same; all 64 bits of it count."""
    texts = [
        tuple(target_only(verifier, PROMPTS[0], 12, seed=seed, temperature=1.0)["token_ids"])
        for seed in (5, 5, 6, 5 + 2**32, -5)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


async def test_concurrent_sessions_and_ordinary_requests(verifier: Verifier) -> None:
    """Sessions with different rules and vLLM's own requests share batches without touching each other."""
    names = ["T=1", "T=0.7, top_p", "T=0, penalties"]
    rules = [(prompt, SETTINGS[name]) for prompt, name in zip(PROMPTS, names, strict=True)]
    truths = [target_only(verifier, p, NUM_TOKENS, seed=3, **f)["token_ids"] for p, f in rules]
    greedy = plain_tokens(verifier, PROMPTS[1], NUM_TOKENS)
    seeded = {"temperature": 0.9, "top_p": 0.9, "seed": 8, "logprobs": 2}
    alone = target_only(verifier, PROMPTS[2], NUM_TOKENS, **seeded)
    sessions = [
        drafted(verifier, prompt, sampling(fields, 3), truth, seed=i)
        for i, ((prompt, fields), truth) in enumerate(zip(rules, truths, strict=True))
    ]
    *drafting, greedy_again, together = await asyncio.gather(
        *sessions,
        asyncio.to_thread(plain_tokens, verifier, PROMPTS[1], NUM_TOKENS),
        asyncio.to_thread(target_only, verifier, PROMPTS[2], NUM_TOKENS, **seeded),
    )
    assert [each.tokens for each in drafting] == truths
    assert greedy_again == greedy
    assert together["token_ids"] == alone["token_ids"]
    assert together["logprobs"]["token_logprobs"] == pytest.approx(
        alone["logprobs"]["token_logprobs"], abs=1e-3
    )


@pytest.mark.parametrize("name", ["T=1", "T=0.7, everything"])
async def test_a_session_taken_over_goes_on_with_the_same_text(verifier: Verifier, name: str) -> None:
    """Prompt, committed tokens and seed rebuild a turn on a new connection, penalties and all."""
    fields = SETTINGS[name]
    truth = target_only(verifier, PROMPTS[1], NUM_TOKENS, seed=99, **fields)["token_ids"]
    how = sampling(fields, 99)
    async with edge_of(verifier) as edge:
        first = DraftingEdge(edge, opened(PROMPTS[1], how), truth)
        await first.run(random.Random(1), until=7)
        edge.break_off()
    second = await drafted(verifier, PROMPTS[1], how, truth, committed=first.tokens)
    assert second.tokens == truth


async def test_the_bias_shows(verifier: Verifier) -> None:
    """A token that is lifted out of sight is generated, ones that are pressed down are not."""
    lifted = sampling({"temperature": 1.0, "logit_bias": {6330: 100.0}}, 4, 8)
    assert await undrafted(verifier, PROMPTS[0], lifted) == [6330] * 8
    pressed = sampling({"temperature": 1.0, "logit_bias": {28: -100.0, 30: -100.0}}, 4)
    assert not {28, 30} & set(await undrafted(verifier, PROMPTS[0], pressed))


async def test_logprobs_are_the_targets(verifier: Verifier) -> None:
    """Each committed token comes with the log-probabilities that the plain request reports."""
    fields = {"temperature": 1.0, "top_p": 0.9}
    plain = target_only(verifier, PROMPTS[0], NUM_TOKENS, seed=2, logprobs=3, **fields)
    truth = plain["token_ids"]
    got = await drafted(verifier, PROMPTS[0], sampling(fields | {"logprobs": 3}, 2), truth)
    reported = [each for commit in got.commits for each in commit.logprobs or []]
    assert got.tokens == truth
    assert [r.logprob for r in reported] == pytest.approx(plain["logprobs"]["token_logprobs"], abs=2e-3)
    for each, top in zip(reported, plain["logprobs"]["top_logprobs"], strict=True):
        assert len(each.top) == 3
        assert sorted((p for _, p in each.top), reverse=True) == [p for _, p in each.top]
        assert each.top[0][1] == pytest.approx(max(top.values()), abs=2e-3)
        assert (each.rank == 1) == (each.logprob == each.top[0][1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_schema_holds_under_any_drafts(verifier: Verifier, temperature: float) -> None:
    """The answer is valid JSON of the schema, the same under drafts, and after a takeover."""
    structure = Structure(StructureKind.JSON_SCHEMA, SCHEMA)
    how = Sampling(60, temperature=temperature, seed=21, structure=structure)
    truth = await undrafted(verifier, PROMPTS[2], how)
    whole = await drafted(verifier, PROMPTS[2], how, truth)
    resumed = await drafted(verifier, PROMPTS[2], how, truth, committed=truth[:5])
    assert whole.tokens == resumed.tokens == truth
    assert whole.accepted > 0
    answer = json.loads(detokenized(verifier, truth))
    assert set(answer) == {"name", "age"}
    assert isinstance(answer["age"], int)


def detokenized(verifier: Verifier, tokens: list[int]) -> str:
    import httpx

    answer = httpx.post(
        f"{verifier.base_url}/detokenize",
        json={"model": verifier.model, "tokens": [token for token in tokens if token > 16]},
        headers=verifier.headers,
        trust_env=False,
    )
    text: str = answer.json()["prompt"]
    return text


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.0},
        {"temperature": 1.0, "seed": NO_SEED},
        {"structure": Structure(StructureKind.JSON_SCHEMA, "no schema")},
        {"structure": Structure(StructureKind.CHOICE, "[1, 2]")},
        {"structure": Structure(StructureKind.REGEX, "(")},
    ],
    ids=["no seed", "none by name", "schema", "choice", "regex"],
)
async def test_bad_rules_are_refused_and_the_connection_goes_on(
    verifier: Verifier, fields: dict[str, Any]
) -> None:
    """What cannot be sampled by is refused as `BAD_SAMPLING`; the next turn works."""
    async with edge_of(verifier) as edge:
        await edge.send(Open(1, PROMPTS[0], Sampling(4, **fields)))
        assert (await edge.refusal(1)).code is RefusalCode.BAD_SAMPLING
        assert len(await edge.generate(PROMPTS[0], 4)) == 4


async def test_committed_tokens_without_the_structure_are_refused(verifier: Verifier) -> None:
    """A takeover whose tokens could not have been generated ends in a refusal; the connection goes on."""
    how = Sampling(20, structure=Structure(StructureKind.JSON_SCHEMA, SCHEMA))
    async with edge_of(verifier) as edge:
        await edge.send(Open(1, PROMPTS[0], how, committed=PROMPTS[1]))
        assert (await edge.refusal(1)).code is RefusalCode.ENGINE_ERROR
        assert len(await edge.generate(PROMPTS[0], 4)) == 4
