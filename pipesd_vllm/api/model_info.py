"""Builds what the server tells an edge about its target: identity, limits, tokenizer."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pipesd_vllm import compat
from pipesd_vllm.api.target_identity import build_identity, served_template
from pipesd_vllm.wire import (
    ASK,
    KEPT,
    MAX_DRAFT_TOKENS,
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    Limits,
    Welcome,
    fingerprint,
)

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def build_welcome(engine: EngineClient, args: Namespace) -> Welcome:
    """The first frame of every connection. Reads files: call it once, at the server's start."""
    config = engine.model_config
    speculative = engine.vllm_config.speculative_config
    tokenizer = engine.renderer.get_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return Welcome(
        version=PROTOCOL_VERSION,
        model=served_name(args),
        max_model_len=config.max_model_len,
        vocab_size=config.get_vocab_size(),
        fingerprint=fingerprint(token or "" for token in tokens),
        limits=Limits(
            max_frame_bytes=MAX_FRAME_BYTES,
            max_draft_tokens=MAX_DRAFT_TOKENS,
            max_drafts=speculative.num_speculative_tokens if speculative else 0,
        ),
        identity=build_identity(engine, args),
        features=[ASK, KEPT],
    )


def served_name(args: Namespace) -> str:
    """The model id that the server's OpenAI API answers to."""
    names = args.served_model_name
    return str(names[0] if names else args.model)


def build_info(
    welcome: Welcome,
    reasoning_parser: str | None = None,
    reasoning_marks: tuple[str, str] | None = None,
    sampling_defaults: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Body of `GET /v1/pipesd/info`: parser and marks as `reasoning.py` has them, vLLM's default sampling."""
    return {
        "model": welcome.model,
        "max_model_len": welcome.max_model_len,
        "vocab_size": welcome.vocab_size,
        "fingerprint": {
            "num_tokens": welcome.fingerprint.num_tokens,
            "sha256": welcome.fingerprint.sha256,
        },
        "limits": {
            "max_frame_bytes": welcome.limits.max_frame_bytes,
            "max_draft_tokens": welcome.limits.max_draft_tokens,
            "max_drafts": welcome.limits.max_drafts,
        },
        "identity": msgspec.to_builtins(welcome.identity),
        "features": welcome.features,
        "reasoning_parser": reasoning_parser,
        "reasoning_marks": reasoning_marks,
        "sampling_defaults": dict(sampling_defaults or {}),
        "protocol_version": welcome.version,
        "vllm_version": compat.installed_version(),
    }


def build_tokenizer(engine: EngineClient, args: Namespace) -> dict[str, Any]:
    """Body of `GET /v1/pipesd/tokenizer`: what an edge needs to render and tokenise.

    Raises `ValueError` for a tokenizer that has no `tokenizer.json` form.
    """
    from vllm.renderers.hf import resolve_chat_template_content_format

    tokenizer = engine.renderer.get_tokenizer()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{served_name(args)} has no fast tokenizer (tokenizer.json); use its OpenAI API")
    template = served_template(engine, args)
    special = {name: getattr(tokenizer, name, None) for name in _SPECIAL_TOKENS}
    return {
        "tokenizer_json": backend.to_str(),
        "chat_template": template,
        "content_format": resolve_chat_template_content_format(
            template,
            None,
            args.chat_template_content_format,
            tokenizer,
            model_config=engine.model_config,
        ),
        "template_variables": args.default_chat_template_kwargs or {},
        "special_tokens": {name: str(token) for name, token in special.items() if token},
        "eos_token_ids": _eos_token_ids(engine),
    }


def _eos_token_ids(engine: EngineClient) -> list[int]:
    generation = engine.model_config.try_get_generation_config()
    configured = generation.get("eos_token_id", [])
    ids = set(configured if isinstance(configured, list) else [configured])
    eos_token_id = engine.renderer.get_eos_token_id()
    return sorted(ids | ({eos_token_id} if eos_token_id is not None else set()))
