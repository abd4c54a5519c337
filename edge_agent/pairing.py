"""Who is behind a connection: a target of the draft's vocabulary, and the one that began an answer?"""

from __future__ import annotations

from edge_agent.errors import PairingError
from pipesd_vllm.protocol import Fingerprint, Welcome

__all__ = ["check_pairing", "is_same_target"]


def is_same_target(left: Welcome, right: Welcome) -> bool:
    """By name and vocabulary, which is all that a server says of its weights."""
    return (left.model, left.fingerprint) == (right.model, right.fingerprint)


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
