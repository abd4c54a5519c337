"""What answers, verify rounds, the gateway and tuning cost on the real parts."""
