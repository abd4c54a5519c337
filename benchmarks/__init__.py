"""Measurements of the whole system on real engines."""
