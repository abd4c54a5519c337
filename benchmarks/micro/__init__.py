"""Costs of single parts, measured without a server or beside one."""
