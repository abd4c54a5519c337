"""Which route a request takes, and what its parameters and headers ask for."""
