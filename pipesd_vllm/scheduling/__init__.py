"""In vLLM's engine process: which sessions exist, what they may verify in the next step."""
