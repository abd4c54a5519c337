"""OpenAI-compatible HTTP front and command line on top of the edge agent."""
