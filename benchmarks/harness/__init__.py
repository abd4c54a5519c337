"""What the benchmarks share: the server, the pair of agent and gateway, clients, prompts, rivals."""
