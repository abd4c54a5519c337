"""One loaded llama.cpp model with one KV cache for several sequences.

Every foreign pointer lives and dies here. Nothing in this module remembers tokens; that is
`edge_agent.drafting.llama.slots`.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_agent.drafting.llama.loading import LlamaSettings, load
from edge_agent.drafting.llama.slots import Chunk
from edge_agent.errors import ModelError

__all__ = ["DecodeStatus", "LlamaContext"]


class DecodeStatus(enum.Enum):
    """What became of a `decode`.

    Unless it is `DONE`, the caller must `remove` each chunk's sequence from the chunk's start on;
    if it is `ABORTED` or `FAILED` and the model recurrent, the caller must `clear_all`.
    """

    DONE = enum.auto()
    NO_CELLS = enum.auto()
    ABORTED = enum.auto()
    FAILED = enum.auto()


_STATUS = {0: DecodeStatus.DONE, 1: DecodeStatus.NO_CELLS, 2: DecodeStatus.ABORTED}


class LlamaContext:
    """A loaded model with one KV cache for `settings.max_sequences` sequences.

    Raises `ModelError` if `path` cannot be loaded. Sequences are numbered from 0. One thread
    owns the object; only `request_abort` may be called from others. `is_recurrent`: some layers
    keep a state instead of keys and values, so that `remove` can fail.
    """

    def __init__(self, path: Path, settings: LlamaSettings) -> None:
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        self._abort = ctypes.create_string_buffer(2)
        try:
            self._model, self._context = load(path, settings, self._abort)
            self._batch = llama_cpp.llama_batch_init(settings.n_batch, 0, 1)
        except BaseException:
            self.close()
            raise
        self._memory: Any = llama_cpp.llama_get_memory(self._context)
        self._vocab: Any = llama_cpp.llama_model_get_vocab(self._model)
        self.name: str = path.stem
        self.num_tokens: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        trained: int = llama_cpp.llama_model_n_ctx_train(self._model)
        self.context_length: int = min(trained, settings.max_length or settings.n_ctx)
        self.is_recurrent = _is_recurrent(self._model)

    def decode(self, chunks: Sequence[Chunk]) -> DecodeStatus:
        """Evaluate `chunks`, `settings.n_batch` tokens at most, in one call."""
        self._check_alive()
        size = 0
        batch = self._batch
        for chunk in chunks:
            for offset, token in enumerate(chunk.tokens):
                batch.token[size] = token
                batch.pos[size] = chunk.start + offset
                batch.n_seq_id[size] = 1
                batch.seq_id[size][0] = chunk.slot
                batch.logits[size] = 0
                size += 1
            batch.logits[size - 1] = chunk.completes
        batch.n_tokens = size
        return _STATUS.get(llama_cpp.llama_decode(self._context, batch), DecodeStatus.FAILED)

    def logits(self, index: int) -> NDArray[np.float32]:
        """`[num_tokens]` float32 of the batch's token `index`, the last one of a chunk that completes.

        A view into llama.cpp's memory, valid until the next `decode`.
        """
        self._check_alive()
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise ModelError("the draft model returned no logits: use another GGUF file")
        row: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(self.num_tokens,))
        return row

    def remove(self, sequence: int, start: int) -> bool:
        """Forget the sequence from position `start` on; False (and no change) if the model's memory cannot.

        Models with a recurrent state cannot go back to an earlier position.
        """
        self._check_alive()
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def clear(self, sequence: int) -> None:
        """Forget the whole sequence."""
        self._check_alive()
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def clear_all(self) -> None:
        """Forget all sequences and whatever an evaluation that was cut short may have left."""
        self._check_alive()
        llama_cpp.llama_memory_clear(self._memory, True)

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target`, which must be empty, share the first `length` positions of `source`.

        A recurrent state is copied as of the source's end; `remove(target, length)` tells.
        """
        self._check_alive()
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def token_text(self, token: int) -> str:
        """The vocabulary's own string of a token ("Ġthe"); bytes that are not UTF-8 as surrogates."""
        self._check_alive()
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "surrogateescape")

    def request_abort(self) -> None:
        """Make `decode` return early until `clear_abort`. From any thread; interrupts CPU layers only."""
        self._abort[0] = b"\1"

    def clear_abort(self) -> None:
        """Clear the abort flag."""
        self._abort[0] = b"\0"

    def close(self) -> None:
        """Free everything. Idempotent; other methods raise `ModelError` afterwards."""
        batch, context, model = self._batch, self._context, self._model
        self._batch = self._context = self._model = None
        if batch is not None:
            llama_cpp.llama_batch_free(batch)
        if context is not None:
            llama_cpp.llama_free(context)
        if model is not None:
            llama_cpp.llama_model_free(model)

    def _check_alive(self) -> None:
        if self._context is None:
            raise ModelError("the draft model is closed: load it again")


def _is_recurrent(model: Any) -> bool:
    return bool(llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model))
