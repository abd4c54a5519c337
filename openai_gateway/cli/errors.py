"""What the command line raises.

CliError               one sentence for the user, what to do included; exit code 1 unless said otherwise
├── PortInUse          the address to listen on is taken
└── ServerFailed       a server that was started stopped or did not get ready
"""

from __future__ import annotations

from pathlib import Path


class CliError(Exception):
    """A failure that the user can solve; printed without a traceback."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PortInUse(CliError):
    """The address to listen on is taken."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"Port {port} on {host} is in use: choose another with --port.")
        self.port = port


class ServerFailed(CliError):
    """A started server stopped or did not become ready; `log_path` has its log."""

    def __init__(self, message: str, log_path: Path) -> None:
        super().__init__(message)
        self.log_path = log_path
