"""A discrete-event model of edges, links and a server, for what does not fit on one machine."""
