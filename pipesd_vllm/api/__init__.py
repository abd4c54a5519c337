"""The server's side of a session: WebSocket endpoint, service, turns."""
