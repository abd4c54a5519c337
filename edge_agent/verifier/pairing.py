"""Checks that draft and target share a vocabulary, and that one target gives a whole answer. Pure."""

from __future__ import annotations

from edge_agent.errors import PairingError, TargetChanged
from pipesd_vllm.wire import Fingerprint, Welcome

__all__ = ["check_pairing", "check_same_target"]


def check_same_target(began: Welcome, now: Welcome) -> None:
    """Raises `TargetChanged` unless the target of `now` would go on as that of `began`.

    By identity and vocabulary; by name and vocabulary where a server does not tell its identity.
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
