"""What the documents claim, recomputed from committed raw data: `pipesd bench claims`.

`claims.toml` names the claims, `data/` holds what was measured.
"""
