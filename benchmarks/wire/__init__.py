"""What the literature's policies send: the draft's whole distribution with every token."""
