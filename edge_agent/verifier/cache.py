"""The verifier's answers about its target, kept on disk for when it is out of reach."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.api import TargetInfo, TokenizerBundle
from edge_agent.errors import CloudMisbehaved
from edge_agent.files import replace_file
from pipesd_vllm.wire import Fingerprint, Identity, Welcome

__all__ = ["InfoAnswer", "TargetCache", "decode_info", "decode_tokenizer"]


class FingerprintAnswer(msgspec.Struct):
    """`pipesd_vllm.wire.Fingerprint`, its fields by name."""

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
    sampling_defaults: dict[str, float] = {}

    def target(self) -> TargetInfo:
        """The target as front ends see it."""
        return TargetInfo(
            self.model,
            self.max_model_len,
            self.vocab_size,
            reasoning_parser=self.reasoning_parser,
            reasoning_marks=self.reasoning_marks,
            sampling_defaults=self.sampling_defaults,
        )

    def vocabulary(self) -> Fingerprint:
        """The target's vocabulary, to be compared with a draft model's."""
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


class TargetCache:
    """Answers in the files of `folder`: info by the verifier's URL, tokenizers by model and fingerprint.

    The chat template is not part of the fingerprint: a kept tokenizer may be out of date, even though it is
    keyed by the model's name as well.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def info_file(self, cloud_url: str) -> Path:
        """Where the info answer of this verifier is kept."""
        return self._folder / f"target-{hashlib.sha256(cloud_url.encode()).hexdigest()[:16]}.json"

    def tokenizer_file(self, info: InfoAnswer) -> Path:
        """Where the tokenizer answer for this target is kept."""
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in info.model)
        return self._folder / f"{name}-{info.fingerprint.sha256[:16]}.json"

    def keep(self, file: Path, data: bytes) -> None:
        """Replace `file` as a whole; a full or read-only disk only costs the copy."""
        try:
            replace_file(file, data)
        except OSError:
            return
