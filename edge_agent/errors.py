"""Everything the edge agent raises.

EdgeError
├── ModelError            a draft model that cannot be found, read or loaded
│   └── NoDraftModel      there is none that could answer alone
├── PairingError          draft and target do not share a vocabulary
├── DraftCapacityError    the draft context has no room for this sequence
├── CloudError            the verifier cannot serve the collaborative path
│   ├── CloudUnreachable  no connection, or it was lost
│   │   └── TargetChanged it is not the target that began the answer
│   ├── CloudRefused      it refused this turn (`code` says why)
│   │   ├── CloudOverloaded  it has no room for it now
│   │   └── VerifierTooOld   it does not speak this agent's protocol, or not all of it
│   └── CloudMisbehaved   it sent impossible ids or positions
├── DraftAnswers          the fallback: the draft model is to answer in the verifier's place
└── ConfigError           a setting that makes no sense
"""

from __future__ import annotations

from typing import Final, TypeAlias

from pipesd_vllm.wire import RefusalCode


class EdgeError(Exception):
    """Base of all errors of the edge agent; the text says what to do next."""


class ModelError(EdgeError):
    """A draft model cannot be found, read or loaded."""


class NoDraftModel(ModelError):
    """No model is there that could answer alone."""

    def __init__(self, reason: str = "no draft model is there that could answer alone") -> None:
        super().__init__(
            f"{reason}: run `pip install 'pipesd[edge]'` and name one of the target's family with --draft"
        )


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

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: seconds after which the server asks to be tried again, if it said so."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TargetChanged(CloudUnreachable):
    """The verifier does not serve the target that began the answer: trying again does not help."""


class CloudMisbehaved(CloudError):
    """The verifier sent impossible ids or positions, or frames that are not in the protocol."""


class CloudRefused(CloudError):
    """The verifier refused this turn."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CloudOverloaded(CloudRefused):
    """The verifier has no room now but may have later. `retry_after_s` as in `CloudUnreachable`."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(RefusalCode.OVERLOADED, message)
        self.retry_after_s = retry_after_s


class VerifierTooOld(CloudRefused):
    """The verifier does not speak this agent's protocol, or not all of it: its plain API still answers."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_version", message)


Transient: TypeAlias = CloudUnreachable | CloudOverloaded
TRANSIENT: Final = (CloudUnreachable, CloudOverloaded)
"""Errors after which a later attempt can succeed, for `except`."""


class DraftAnswers(EdgeError):
    """Nothing has come of the verifier, and the setting says that the draft model answers instead.

    `reason` as `GenerationStats.route_reason` gives it; `lost` is what to tell if it cannot.
    """

    def __init__(self, reason: str, lost: Transient) -> None:
        super().__init__(str(lost))
        self.reason = reason
        self.lost = lost
