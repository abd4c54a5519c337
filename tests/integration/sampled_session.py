"""Sessions and plain requests that sample with a shared seed, for the tests of exactness."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import httpx

from pipesd_vllm.wire import Commit, Draft, Mode, Open, Sampling
from tests.conftest import Verifier

from .session_client import DEADLINE_S, Edge


def target_only(verifier: Verifier, prompt: Sequence[int], num_tokens: int, **fields: Any) -> dict[str, Any]:
    """The choice that vLLM's own completions route gives; `pipesd_seed` in `fields` asks for our noise."""
    seed = fields.pop("pipesd_seed", None)
    body = {
        "model": verifier.model,
        "prompt": list(prompt),
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    extra = {} if seed is None else {"vllm_xargs": {"pipesd_seed": seed}}
    url = f"{verifier.base_url}/v1/completions"
    answer = httpx.post(
        url, json=body | fields | extra, headers=verifier.headers, timeout=DEADLINE_S, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


class DraftingEdge:
    """Runs one turn whose drafts follow `truth`, now and then wrongly. `commits` is all that came."""

    def __init__(
        self,
        edge: Edge,
        prompt: Sequence[int],
        sampling: Sampling,
        truth: Sequence[int],
        rng: random.Random,
        committed: Sequence[int] = (),
    ) -> None:
        self.tokens = list(committed)
        self.commits: list[Commit] = []
        self.accepted = 0
        self._edge = edge
        self._prompt = list(prompt)
        self._sampling = sampling
        self._truth = truth
        self._rng = rng
        self._next_id = 1
        self._finished = False

    async def run(self, until: int | None = None) -> list[int]:
        """Open the turn and draft until it ends, or until `until` tokens are there; returns the tokens."""
        opened = Open(1, self._prompt, self._sampling, Mode.OFFLOAD, committed=list(self.tokens))
        await self._edge.send(opened)
        while not self._finished and (until is None or len(self.tokens) < until):
            commit = await self._edge.commit(1)
            assert commit.base == len(self._prompt) + len(self.tokens)
            self.commits.append(commit)
            self.tokens += commit.tokens
            self.accepted += commit.accepted
            self._finished = commit.finish_reason is not None
            if not self._finished:
                await self._draft()
        return self.tokens

    async def _draft(self) -> None:
        tokens = list(self._truth[len(self.tokens) :][: self._rng.randint(1, 8)]) or [11]
        if self._rng.random() < 0.5:
            at = self._rng.randrange(len(tokens))
            tokens[at:] = [self._rng.randrange(40_000) for _ in tokens[at:]]
        base = len(self._prompt) + len(self.tokens)
        await self._edge.send(Draft(1, self._next_id, base, 0, tokens))
        self._next_id += len(tokens)
