"""Decisions made from measurements: when to send, how far to draft, with which parameters."""
