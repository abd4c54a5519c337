"""How many GPUs so many users need: a queueing model that is fitted to the simulator."""
