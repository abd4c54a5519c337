"""Every draft setting ends in a file or in one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from edge_agent.drafting import EMBEDDED, check_model, embedded_model, resolve_model
from edge_agent.errors import ModelError


class FakeHub:
    """Downloads to `path`, or raises `error`; remembers what was asked for."""

    def __init__(self, path: Path = Path("cached.gguf"), error: BaseException | None = None) -> None:
        self.path = path
        self.error = error
        self.asked: list[tuple[str, str]] = []

    def download(self, repository: str, filename: str) -> str:
        self.asked.append((repository, filename))
        if self.error:
            raise self.error
        return str(self.path)


def test_embedded_is_the_file_of_the_installed_wheel() -> None:
    """The default needs no download: it is a GGUF file that was installed with the package."""
    path = resolve_model(EMBEDDED)
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"


@pytest.mark.parametrize("package", ["no_such_package_here", "json", "sys"])
def test_a_missing_embedded_model_says_how_to_install_it(package: str) -> None:
    """Neither a missing package nor one without the file leaks an ImportError."""
    with pytest.raises(ModelError, match=r"not installed: run `pip install 'pipesd\[demo\]'`, or name"):
        embedded_model(package)


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """Surrounding blanks are not part of a path; looking into the file is the loader's business."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"")
    assert resolve_model(f" {path} ") == path


def test_a_missing_path_names_the_alternatives(tmp_path: Path) -> None:
    """A mistyped path is answered with the three forms there are."""
    with pytest.raises(ModelError, match=r"does not exist: .* 'embedded', or hf:org/repo/file.gguf"):
        resolve_model(str(tmp_path / "missing.gguf"))


def test_a_folder_is_not_a_model(tmp_path: Path) -> None:
    """A folder's sentence says that a file is wanted, and whether there is one."""
    (tmp_path / "config.json").touch()
    with pytest.raises(ModelError, match=r"is a folder: .* GGUF files, and there is none"):
        resolve_model(str(tmp_path))
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match="is a folder: name the GGUF file in it"):
        resolve_model(str(tmp_path))


def test_checking_downloads_nothing() -> None:
    """A draft of the Hub passes by its form alone; typos of the others do not."""
    check_model(EMBEDDED)
    check_model("hf:no-such-org/no-such-repo/file.gguf")
    for typo in ("embeded", "minus-9-layers", "org/repo", "hf:org/repo"):
        with pytest.raises(ModelError, match=r"hf:org/repo/file\.gguf"):
            check_model(typo)


@pytest.mark.parametrize("path", ["\0", "x" * 5000])
def test_impossible_paths_are_model_errors(path: str) -> None:
    """What the file system refuses to even look at is still a ModelError."""
    with pytest.raises(ModelError, match=r"draft model .*:"):
        resolve_model(path)


@pytest.mark.parametrize("filename", ["model.gguf", "Q4/model.gguf"])
def test_a_hub_name_is_downloaded(filename: str) -> None:
    """Repository and file name, in a subfolder or not, reach the downloader."""
    hub = FakeHub()
    assert resolve_model(f"hf:org/repo/{filename}", hub.download) == hub.path
    assert hub.asked == [("org/repo", filename)]


@pytest.mark.parametrize(
    "setting",
    ["hf:", "hf:org/repo", "hf:repo.gguf", "hf:org//f.gguf", "hf:/repo/f.gguf", "hf:org/repo/f.bin"],
)
def test_malformed_hub_names_are_refused_without_a_download(setting: str) -> None:
    """The network is not asked for something that cannot be."""
    hub = FakeHub()
    with pytest.raises(ModelError, match=r"write hf:org/repo/file\.gguf"):
        resolve_model(setting, hub.download)
    assert not hub.asked


RESPONSE = SimpleNamespace(headers={}, request=None, status_code=404)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            errors.GatedRepoError("403", response=RESPONSE),
            r"accept its terms at .*/org/repo, .*`hf auth login`",
        ),
        (
            errors.RepositoryNotFoundError("404", response=RESPONSE),
            r"check .*/org/repo, or run `hf auth login`",
        ),
        (errors.LocalEntryNotFoundError("offline"), r"out of reach: connect \(and unset HF_HUB_OFFLINE\)"),
        (errors.OfflineModeIsEnabled("offline"), r"out of reach: connect \(and unset HF_HUB_OFFLINE\)"),
        (errors.EntryNotFoundError("404"), r"no file 'file.gguf': choose one from .*/org/repo/tree/main"),
        (errors.HFValidationError("bad"), r"not a valid repository name"),
        (
            errors.HfHubHTTPError("500\nserver", response=RESPONSE),
            r"download failed \(500 server\): try again",
        ),
        (OSError(28, "No space left on device"), r"download failed \(.*No space left on device\): try again"),
        (TimeoutError(), r"download failed \(TimeoutError\): try again"),
    ],
)
def test_every_failed_download_says_what_to_do(error: Exception, advice: str) -> None:
    """Each kind of failure becomes one line that names the setting and the next step."""
    with pytest.raises(ModelError, match=advice) as caught:
        resolve_model("hf:org/repo/file.gguf", FakeHub(error=error).download)
    assert str(caught.value).startswith("hf:org/repo/file.gguf: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_interrupting_a_download_is_not_a_failure() -> None:
    """Ctrl-C ends the program, it is not translated."""
    with pytest.raises(KeyboardInterrupt):
        resolve_model("hf:org/repo/file.gguf", FakeHub(error=KeyboardInterrupt()).download)
