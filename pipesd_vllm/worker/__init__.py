"""In vLLM's worker processes: sampling coupled with the edge's noise, and the CPU build's support."""
