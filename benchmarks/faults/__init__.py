"""Faults on real processes: what becomes of answers when something dies under them."""
