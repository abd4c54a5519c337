"""What happens before vLLM starts: `pipesd serve`, the target's name, the embedded target."""
