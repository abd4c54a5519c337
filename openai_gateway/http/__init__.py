"""What all endpoints share of HTTP: bodies, keys, errors, streams."""
