"""What verifiers answered about their targets, kept on disk for the time when they are out of reach."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from edge_agent.verifier.target_answers import InfoAnswer

__all__ = ["TargetCache"]


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
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as temporary:
                temporary.write(data)
            os.replace(temporary.name, file)
        except OSError:
            return
