"""In vLLM's worker processes: the edges' drafts verified, and what the CPU build needs."""
