"""The other machine: connections, their upkeep, and what it serves."""
