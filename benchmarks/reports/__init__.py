"""From records of generations to figures, tables, plots and a page."""
