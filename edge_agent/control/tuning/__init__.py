"""The on-line autotuner: varies R1, R2, look-ahead and patience in live traffic for the least time per token.

`registry` puts it together; `tuner` is the state machine; `trial`, `observations` and `drift` measure;
`space` is searched; `proposers` and `gp` say where next, `background` and `gp_process` keep that out of
the way of the tokens; `store` keeps the results.
"""
