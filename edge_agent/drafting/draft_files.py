"""What the agent gets out of the draft model's file: the loaded model, and its own tokenizer."""

from __future__ import annotations

from edge_agent.drafting.drafter import Drafter
from edge_agent.settings import EdgeSettings
from edge_agent.target import TokenizerBundle

__all__ = ["load_drafter", "own_tokenizer"]


def load_drafter(settings: EdgeSettings) -> Drafter:
    """Load the draft model (seconds; call it off the event loop). Raises `ModelError`."""
    from edge_agent.drafting.llama.drafter import LlamaDrafter
    from edge_agent.drafting.llama.loading import LlamaSettings
    from edge_agent.drafting.models import resolve_model

    llama = LlamaSettings(
        n_threads=settings.draft_threads,
        n_ctx=settings.draft_context * settings.max_sequences,
        max_sequences=settings.max_sequences,
    )
    return LlamaDrafter.load(resolve_model(settings.draft), llama)


def own_tokenizer(settings: EdgeSettings) -> TokenizerBundle:
    """The draft model's own tokenizer (seconds; call it off the event loop). Raises `ModelError`."""
    from edge_agent.drafting.llama.tokenizer import gguf_tokenizer
    from edge_agent.drafting.models import resolve_model

    return gguf_tokenizer(resolve_model(settings.draft))
