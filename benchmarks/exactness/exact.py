"""`pipesd bench exact`: is the gateway's output the server's own, token for token?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.harness.clients import sampling_body, translated
from benchmarks.differences import Continuation, Difference, first_difference
from benchmarks.exactness.margin import margin
from benchmarks.harness.pair import Pair
from benchmarks.harness.prompts import Prompt, TokenisedPrompt, tokenised
from edge_agent.generation import FinishReason, SamplingSettings
from openai_gateway.tokenization import TargetText

__all__ = ["Checked", "Completer", "Plain", "ThroughGateway", "check", "describe", "fitting"]

Decode = Callable[[int], str]


class Completer(Protocol):
    """Something that continues a prompt."""

    async def complete(self, prompt: Sequence[int], sampling: SamplingSettings) -> Continuation:
        """The whole continuation."""
        ...


class Plain(Completer, Protocol):
    """The server without us."""

    async def most_likely(self, prefix: Sequence[int]) -> Mapping[int, float]:
        """Log-probabilities (nats) of the most likely tokens after `prefix`."""
        ...


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one prompt. `gap_nats` is None if it does not apply or is too wide to be known.

    It is `Margin.by_score`: penalties and noise count.
    """

    name: str
    num_tokens: int
    difference: Difference | None
    gap_nats: float | None = None


class ThroughGateway:
    """Continues prompts through the gateway: the client's text, with the agent's tokens."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    async def complete(self, prompt: Sequence[int], sampling: SamplingSettings) -> Continuation:
        """Raises `CliError`."""
        client = self._pair.gateway
        with translated(client):
            completion = await client.completions.create(
                model=self._pair.target.model,
                prompt=list(prompt),
                max_tokens=sampling.max_tokens,
                seed=sampling.seed,
                extra_body=sampling_body(sampling),
            )
        token_ids = self._pair.recorder.take(completion.id).token_ids
        choice = completion.choices[0]
        return Continuation(tuple(token_ids), choice.text, FinishReason(choice.finish_reason))


async def fitting(
    prompts: Sequence[Prompt], text: TargetText, room: int, note: Callable[[str], None]
) -> AsyncGenerator[TokenisedPrompt, None]:
    """The prompts of at most `room` tokens; `note` is told of each of the others. Raises `CliError`."""
    for prompt in prompts:
        ready = await tokenised(prompt, text)
        if len(ready.token_ids) <= room:
            yield ready
        else:
            note(f"{prompt.name}: skipped, it has {len(ready.token_ids)} tokens and only {room} fit")


async def check(
    prompt: TokenisedPrompt, plain: Plain, ours: Completer, sampling: SamplingSettings
) -> Checked:
    """Continue `prompt` both ways; where the tokens differ, ask the target how close the two were."""
    expected = await plain.complete(prompt.token_ids, sampling)
    difference = first_difference(expected, await ours.complete(prompt.token_ids, sampling))
    gap_nats = None
    if difference is not None and difference.plain_token is not None and difference.our_token is not None:
        before = expected.token_ids[: difference.position]
        logprobs = await plain.most_likely((*prompt.token_ids, *before))
        tokens = difference.plain_token, difference.our_token
        close = margin(logprobs, sampling, prompt.token_ids, before, *tokens)
        gap_nats = None if close is None else close.by_score
    return Checked(prompt.name, len(expected.token_ids), difference, gap_nats)


def describe(checked: Checked, near_tie_nats: float, decode: Decode) -> str:
    """One line on a prompt: identical, or where, in what and why it is not."""
    difference = checked.difference
    if difference is None:
        return f"{checked.name}: identical, {checked.num_tokens} tokens"
    if difference.plain_token is None and difference.our_token is None:
        return f"{checked.name}: the tokens are identical, text or finish reason are not: unexplained"
    plain, ours = (_shown(token, decode) for token in (difference.plain_token, difference.our_token))
    where = f"{checked.name}: differs at generated token {difference.position}"
    return f"{where}, plain {plain}, ours {ours}: {_explanation(checked.gap_nats, near_tie_nats)}"


def _explanation(gap_nats: float | None, near_tie_nats: float) -> str:
    if gap_nats is None:
        return "unexplained (they are not both among the most likely)"
    verdict = "near-tie" if abs(gap_nats) < near_tie_nats else "unexplained"
    return f"{verdict} (the target alone sees them {gap_nats:+.4f} nats apart)"


def _shown(token: int | None, decode: Decode) -> str:
    return "(ended)" if token is None else f"{decode(token)!r} ({token})"
