"""An emulated path between edge and server: delay, rate, queue, loss."""
