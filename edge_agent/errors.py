"""Everything the edge agent raises.

EdgeError
├── ModelError            a draft model that cannot be found, read or loaded
├── PairingError          draft and target do not share a vocabulary
├── DraftCapacityError    the draft context has no room for this sequence
├── CloudError            the verifier cannot serve the collaborative path
│   ├── CloudUnreachable  no connection, or it was lost
│   ├── CloudRefused      it refused this turn (`code` says why)
│   └── CloudMisbehaved   it sent ids or positions that cannot be
└── ConfigError           a setting that makes no sense
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all errors of the edge agent; the text says what to do next."""


class ModelError(EdgeError):
    """A draft model cannot be found, read or loaded."""


class PairingError(EdgeError):
    """Draft and target do not share a vocabulary."""


class DraftCapacityError(EdgeError):
    """The draft context has no room for this sequence."""


class ConfigError(EdgeError):
    """A setting that makes no sense."""


class CloudError(EdgeError):
    """The verifier cannot serve the collaborative path."""


class CloudUnreachable(CloudError):
    """No connection to the verifier, or it was lost."""


class CloudMisbehaved(CloudError):
    """The verifier sent ids or positions that cannot be."""


class CloudRefused(CloudError):
    """The verifier refused this turn."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
