"""Reads recorded traces: timelines, totals and the Gantt page."""
