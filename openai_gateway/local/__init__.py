"""Answers put together on this machine from token ids: prompts, texts and shapes."""
