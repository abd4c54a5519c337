"""Which target is served: as the verifier says, as an earlier run remembered, or the draft in its place."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from edge_agent.api import TargetInfo, TokenizerBundle
from edge_agent.drafting import DraftModelInfo
from edge_agent.errors import (
    TRANSIENT,
    CloudError,
    CloudUnreachable,
    ModelError,
    NoDraftModel,
    PairingError,
    TargetChanged,
    Transient,
)
from edge_agent.verifier.http import CloudApi
from pipesd_vllm.wire import Fingerprint, Welcome

__all__ = ["ServedTarget", "check_pairing", "check_same_target", "no_own_tokenizer", "nobody_else"]

logger = logging.getLogger("pipesd.edge")

_NOBODY_ELSE: Final = "no draft model is installed that could answer meanwhile: `pip install 'pipesd[edge]'`"


class ServedTarget:
    """The target behind the verifier and its tokenizer. Asks until it was answered once, and after a change.

    While the verifier is out of reach: those of an earlier run, if the draft has their vocabulary, else the
    draft model's own. Without a draft model its absence is an error. `pipesd_vllm.wire.Identity` is something
    else: what a target is made of.
    """

    def __init__(
        self,
        api: CloudApi,
        draft: DraftModelInfo | None,
        draft_fingerprint: Callable[[int], Awaitable[Fingerprint]],
        own_tokenizer: Callable[[], TokenizerBundle],
        *,
        may_be_away: bool,
        clock: Callable[[], float],
    ) -> None:
        """`own_tokenizer` may take seconds and raise `ModelError`. Without `may_be_away` the
        verifier's absence is an error. `clock` in seconds."""
        self._api = api
        self._draft = draft
        self._draft_fingerprint = draft_fingerprint
        self._own_tokenizer = own_tokenizer
        self._may_be_away = may_be_away and draft is not None
        self._clock = clock
        self._listing = asyncio.Lock()
        self._listed_s = -math.inf
        """When the server was asked last which adapters it has, whether it answered or not."""
        self._live: TargetInfo | None = None
        self._bundle: TokenizerBundle | None = None
        self._stand_in: tuple[TargetInfo, TokenizerBundle] | None = None

    async def target(self, *, offline: bool = False, max_age_s: float = math.inf) -> TargetInfo:
        """As `Generator.target`."""
        if self._live is None and not offline:
            try:
                self._live = self._completed(await self._api.target())
                await self._keep_tokenizer()
            except TRANSIENT as error:
                if not self._may_be_away:
                    raise self._explained(error) from error
        if self._live is not None and not offline and max_age_s < math.inf:
            await self._list_adapters(self._clock() - max_age_s)
        return self._live or (await self._without_verifier())[0]

    async def _list_adapters(self, since_s: float) -> None:
        """Ask which there are, unless somebody has since `since_s`."""
        async with self._listing:
            target = self._live
            if target is None or self._listed_s >= since_s:
                return
            self._listed_s = self._clock()
            try:
                listed = replace(target, adapters=await self._api.adapters())
            except CloudError as error:
                logger.info("the server's LoRA adapters are not to be had: %s", error)
                return
            if self._live is target:  # and no other was noticed meanwhile
                self._live = listed

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        """As `Generator.tokenizer`."""
        if self._bundle is None and not offline:
            try:
                self._bundle = await self._api.tokenizer()
            except TRANSIENT as error:
                if not self._may_be_away:
                    raise self._explained(error) from error
        return self._bundle or (await self._without_verifier())[1]

    @property
    def bundle(self) -> TokenizerBundle | None:
        """The tokenizer, if it is at hand."""
        return self._bundle

    async def _keep_tokenizer(self) -> None:
        """Have the target's tokenizer at hand for when the draft model answers; its own will do else."""
        try:
            self._bundle = self._bundle or await self._api.tokenizer()
        except CloudError as error:
            logger.info("the target's tokenizer is not to be had: %s", error)

    def notice(self, welcome: Welcome) -> None:
        """Forget the known target if a new connection's `welcome` is from another one."""
        if self._api.serves(welcome):
            return
        logger.warning("the verifier serves another target now: %s", welcome.model)
        self._api.forget()
        self._live = self._bundle = self._stand_in = None
        self._listed_s = -math.inf

    def _explained(self, error: Transient) -> Transient:
        return error if self._draft is not None else nobody_else(error)

    async def _without_verifier(self) -> tuple[TargetInfo, TokenizerBundle]:
        if self._draft is None:
            raise NoDraftModel
        if self._stand_in is None:
            self._stand_in = await self._remembered() or await self._own()
        return self._stand_in

    async def _remembered(self) -> tuple[TargetInfo, TokenizerBundle] | None:
        remembered = self._api.remembered()
        if remembered is None:
            return None
        target, fingerprint, bundle = remembered
        if await self._draft_fingerprint(fingerprint.num_tokens) != fingerprint:
            return None
        logger.info("target and tokenizer as of an earlier run: %s", target.model)
        return self._completed(target), bundle

    async def _own(self) -> tuple[TargetInfo, TokenizerBundle]:
        draft = self._draft
        assert draft is not None
        bundle = await asyncio.to_thread(self._own_tokenizer)
        logger.info("the verifier was never reached; the draft's own tokenizer serves: %s", draft.name)
        target = TargetInfo(draft.name, draft.context_length, draft.num_tokens, is_known=False)
        return self._completed(target), bundle

    def _completed(self, target: TargetInfo) -> TargetInfo:
        if self._draft is None:
            return replace(target, has_draft=False)
        return replace(target, draft_max_len=min(target.max_model_len, self._draft.context_length))


def nobody_else(error: Transient) -> CloudUnreachable:
    """`error`, with why nobody answers in the verifier's place."""
    return CloudUnreachable(f"{error}; {_NOBODY_ELSE}", error.retry_after_s)


def no_own_tokenizer() -> TokenizerBundle:
    """For an agent without a model file: raises `ModelError`."""
    raise ModelError("the verifier was never reached, and the draft model brings no tokenizer")


def check_same_target(began: Welcome, now: Welcome) -> None:
    """Raises `TargetChanged` unless the target of `now` would continue a text as that of `began`.

    Compares identity and vocabulary, or name and vocabulary where a server does not tell its identity.
    """
    if began.identity is None or now.identity is None:
        differing = [] if began.model == now.model else ["model"]
    else:
        differing = began.identity.differences(now.identity)
    if began.fingerprint != now.fingerprint:
        differing.append("vocabulary")
    if differing:
        raise TargetChanged(
            f"{began.model} began this answer; {now.model} is there now (other {', '.join(differing)})"
        )


def check_pairing(draft_name: str, draft: Fingerprint, welcome: Welcome) -> None:
    """Raises `PairingError` unless the draft's first tokens are exactly the target's.

    `draft` is the fingerprint of as many entries as the target has tokens; what the
    draft has beyond them is padding, which the target never commits.
    """
    target = welcome.fingerprint
    if draft == target:
        return
    if draft.num_tokens < target.num_tokens:
        detail = f"it has {draft.num_tokens} tokens, the target {target.num_tokens}"
    else:
        detail = "their tokens differ"
    raise PairingError(
        f"the draft {draft_name} does not fit the target {welcome.model}: {detail}; "
        "choose a draft of the same model family with --draft"
    )
