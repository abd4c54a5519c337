"""A draft model in llama.cpp."""
