"""The on-line autotuner: varies R1, R2, look-ahead and patience in live traffic for the least time per token.

`registry` makes one autotuner for each link class and mode. `tuner` is its state machine and measures;
`search` has the search space and the methods without a model; `gp` is the model, which `gp_process` runs
in a process of its own and `background` asks without blocking; `store` keeps the results.
"""
