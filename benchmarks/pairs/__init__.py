"""Pairs of draft and target with realistic cost and acceptance, made from the one embedded model."""
