"""Cloud side of PipeSD: a vLLM plugin that verifies drafts sent by remote edges."""
