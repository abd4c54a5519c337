"""What the verifier's info and tokenizer routes answer, as JSON, and what it means here. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_agent.errors import CloudMisbehaved
from edge_agent.target import TargetInfo, TokenizerBundle
from pipesd_vllm.wire import Fingerprint, Identity, Welcome

__all__ = ["InfoAnswer", "decode_info", "decode_tokenizer"]


class FingerprintAnswer(msgspec.Struct):
    """`protocol.Fingerprint`, its fields by name."""

    num_tokens: int
    sha256: str


class InfoAnswer(msgspec.Struct):
    """The info route's answer."""

    model: str
    max_model_len: int
    vocab_size: int
    fingerprint: FingerprintAnswer
    reasoning_parser: str | None = None
    reasoning_marks: tuple[str, str] | None = None
    identity: Identity | None = None

    def target(self) -> TargetInfo:
        """For front ends."""
        return TargetInfo(
            self.model,
            self.max_model_len,
            self.vocab_size,
            reasoning_parser=self.reasoning_parser,
            reasoning_marks=self.reasoning_marks,
        )

    def vocabulary(self) -> Fingerprint:
        """To be compared with a draft model's."""
        return Fingerprint(self.fingerprint.num_tokens, self.fingerprint.sha256)

    def describes(self, welcome: Welcome) -> bool:
        """Whether a connection's `welcome` is from the same target, as it is served here."""
        if self.identity is not None and welcome.identity is not None and self.identity != welcome.identity:
            return False
        known = self.model, self.max_model_len, self.vocab_size, self.fingerprint.sha256
        told = welcome.model, welcome.max_model_len, welcome.vocab_size, welcome.fingerprint.sha256
        return known == told


class TokenizerAnswer(msgspec.Struct):
    """The tokenizer route's answer."""

    tokenizer_json: str
    chat_template: str | None
    special_tokens: dict[str, str]
    eos_token_ids: list[int]
    content_format: str | None = None
    template_variables: dict[str, Any] = {}


def decode_info(data: bytes) -> InfoAnswer:
    """Raises `msgspec.DecodeError`."""
    return msgspec.json.decode(data, type=InfoAnswer)


def decode_tokenizer(data: bytes) -> TokenizerBundle:
    """Raises `CloudMisbehaved`."""
    try:
        tokenizer = msgspec.json.decode(data, type=TokenizerAnswer)
    except msgspec.DecodeError as error:
        raise CloudMisbehaved(f"the server's tokenizer answer cannot be read: {error}") from error
    return TokenizerBundle(
        tokenizer.tokenizer_json,
        tokenizer.chat_template,
        tokenizer.special_tokens,
        tuple(tokenizer.eos_token_ids),
        tokenizer.content_format,
        tokenizer.template_variables,
    )
