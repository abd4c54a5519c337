"""Ollama's native API, translated to and from chat completions."""
