"""An emulated path between edge and server: delay, jitter, rate, queue, loss, blackholes."""
