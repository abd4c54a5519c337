"""A middle between a text and a suffix, asked for with the target's own tokens. Pure.

What stands between prefix and suffix is a completion like any other once the prompt names its places, so it
is drafted for as any other is: an editor's completions are where waiting shows most.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest, UnsupportedParameter
from openai_gateway.local import TargetText

__all__ = ["infill"]

_PLACES: Final = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),  # DeepSeek
)
"""Tokens before the prefix, before the suffix and before the middle, as models were trained with them."""
_REPOSITORY: Final = (("<|repo_name|>", "<|file_sep|>"), ("<repo_name>", "<file_sep>"))
_ENDS: Final = ("<|endoftext|>", "<|fim_pad|>", "<|file_separator|>", "<|cursor|>", "<fim_pad>", "<EOT>")
"""What else ends a middle: the model goes on with another file."""
_SNIPPET: Final = "--- snippet ---\n\n"


def infill(body: Mapping[str, Any], text: TargetText) -> Json:
    """The completion request for the middle between `prompt` and `suffix`.

    `input_extra` (llama-server's: `[{"filename", "text"}, ...]`) are other files, told first. Raises
    `UnsupportedParameter` if the target has no tokens for it, `InvalidRequest` for what is no text.
    """
    known = text.added_ids
    places = next((places for places in _PLACES if all(token in known for token in places)), None)
    if places is None:
        raise UnsupportedParameter(
            "suffix", "'suffix': the target has no tokens for a middle; models for code have them."
        )
    prefix, suffix = _text(body, "prompt"), _text(body, "suffix")
    before, hole, middle = places
    asked = {name: value for name, value in body.items() if name not in ("suffix", "input_extra", "echo")}
    asked["prompt"] = f"{_files(body.get('input_extra'), known)}{before}{prefix}{hole}{suffix}{middle}"
    ends = [known[token] for token in (*_ENDS, *places, *chain(*_REPOSITORY)) if token in known]
    asked["stop_token_ids"] = list(dict.fromkeys([*_ids(body), *ends]))
    return asked


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    if not isinstance(value, str):
        raise InvalidRequest(f"'{name}' should be a text beside 'suffix'.", param=name, code="invalid_value")
    return value


def _ids(body: Mapping[str, Any]) -> list[int]:
    ids = body.get("stop_token_ids")
    return ids if isinstance(ids, list) else []


def _files(extra: object, known: Mapping[str, int]) -> str:
    if not isinstance(extra, list):
        return ""
    files = [file for file in extra if isinstance(file, dict) and isinstance(file.get("text"), str)]
    names = next((pair for pair in _REPOSITORY if all(token in known for token in pair)), None)
    if names is None or not files:
        return "".join(f"{_SNIPPET}{file['text']}\n" for file in files)
    repository, separator = names
    told = "".join(f"{separator}{file.get('filename') or 'tmp'}\n{file['text']}\n" for file in files)
    return f"{repository}project\n{told}{separator}this\n"
