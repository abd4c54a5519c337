"""A chat service for tests that answers from a script."""
