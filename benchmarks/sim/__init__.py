"""Both sides' real code on virtual time: one plan, one run, bit for bit the same each time."""
