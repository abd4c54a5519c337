"""The server without us: vLLM's own /v1/completions, asked for token ids and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import openai

from benchmarks.harness.clients import sampling_body, translated
from benchmarks.differences import Continuation
from edge_agent.generation import FinishReason, SamplingSettings
from openai_gateway.cli.errors import CliError

__all__ = ["PlainServer", "parse_token_logprobs"]

_NUM_LOGPROBS: Final = 20  # the most that vLLM gives unless told otherwise
_TOKEN_PREFIX: Final = "token_id:"


class PlainServer:
    """Asks a vLLM server for whole continuations. All methods raise `CliError`."""

    def __init__(self, client: openai.AsyncOpenAI, model: str) -> None:
        self._client = client
        self._model = model

    async def complete(self, prompt: Sequence[int], sampling: SamplingSettings) -> Continuation:
        """The target's own continuation of `prompt`: nothing is drafted.

        A request of the server's own API draws with the noise of our sessions if it names their seed.
        """
        extra: dict[str, Any] = {"return_token_ids": True}
        if sampling.temperature > 0:
            extra |= {"vllm_xargs": {"pipesd_seed": sampling.seed}}
        choice = await self._choice(prompt, sampling, extra)
        token_ids = (choice.model_extra or {}).get("token_ids")
        if not isinstance(token_ids, list):
            raise CliError(f"{self._client.base_url} gives no token ids: this needs vLLM 0.10.2 or newer.")
        return Continuation(tuple(token_ids), choice.text, FinishReason(choice.finish_reason))

    async def most_likely(self, prefix: Sequence[int], num: int | None = None) -> Mapping[int, float]:
        """Log-probabilities (nats) of the most likely tokens after `prefix`, in a pass of its own.

        `num` tokens; None: the most that a server gives unless told otherwise.
        """
        extra = {"return_tokens_as_token_ids": True}
        choice = await self._choice(prefix, SamplingSettings(1), extra, logprobs=num or _NUM_LOGPROBS)
        top = choice.logprobs.top_logprobs if choice.logprobs is not None else None
        if not top or not top[0]:
            raise CliError(f"{self._client.base_url} gives no log-probabilities.")
        return parse_token_logprobs(top[0])

    async def _choice(
        self, prompt: Sequence[int], sampling: SamplingSettings, extra: dict[str, Any], **more: Any
    ) -> Any:
        with translated(self._client):
            completion = await self._client.completions.create(
                model=self._model,
                prompt=list(prompt),
                max_tokens=sampling.max_tokens,
                extra_body={**sampling_body(sampling), **extra},
                **more,
            )
        return completion.choices[0]


def parse_token_logprobs(top: Mapping[str, float]) -> dict[int, float]:
    """`{"token_id:5": -0.1}` as `{5: -0.1}`."""
    return {int(name.removeprefix(_TOKEN_PREFIX)): logprob for name, logprob in top.items()}
