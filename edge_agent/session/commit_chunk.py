"""A commit as the front end sees it: the chunk it makes, and its part of the generation's figures. Pure."""

from __future__ import annotations

from edge_agent.api import FinishReason, GenerationChunk, GenerationStats, Source
from edge_agent.session.chain import Reconciled, logprobs_of
from edge_agent.session.control import CommitReceived
from pipesd_vllm.wire import Commit

__all__ = ["chunk_of", "count_commit"]


def count_commit(stats: GenerationStats, event: CommitReceived, reconciled: Reconciled) -> None:
    """Add what came with a commit to `stats`."""
    commit = event.commit
    stats.downlink_bytes += event.num_bytes
    stats.target_passes += commit.passes
    stats.draft_tokens_verified += commit.drafted
    stats.draft_tokens_accepted += commit.accepted
    stats.draft_tokens_discarded += reconciled.discarded
    stats.completion_tokens += len(reconciled.new_tokens)
    if reconciled.new_tokens:
        stats.last_token_s = event.received_s
        if stats.first_token_s is None:
            stats.first_token_s = event.received_s


def chunk_of(commit: Commit, reconciled: Reconciled, stats: GenerationStats) -> GenerationChunk:
    """Its new tokens, where they come from, and how the generation ended, if it has."""
    reason = None if commit.finish_reason is None else FinishReason(commit.finish_reason)
    sources = tuple(Source.DRAFTED if agreed else Source.CORRECTED for agreed in reconciled.agreed)
    logprobs = logprobs_of(commit, len(reconciled.new_tokens))
    return GenerationChunk(reconciled.new_tokens, reason, stats, sources, logprobs)
