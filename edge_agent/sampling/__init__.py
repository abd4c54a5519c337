"""Picking draft tokens as the target will pick its own: the same parameters, the same noise."""
