"""A target that cannot be is one clear sentence, before anything is downloaded or started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipesd_vllm.launch.target_name import TargetNameError, check_target


@pytest.mark.parametrize(
    "name", ["depth-x99", "depth-x2", "minus-3-layers", "embeded", "SmolLM2-135M-instruct"]
)
def test_a_name_like_ours_says_which_there_are(name: str) -> None:
    """Mistyped, or in a command that does not know it: no model of the Hub is meant."""
    with pytest.raises(
        TargetNameError, match=r"'embedded' comes along \(and depth-x1.1 to depth-x9 with"
    ) as told:
        check_target(name)
    assert repr(name) in str(told.value)


@pytest.mark.parametrize("name", ["org/name", "org/name-GGUF", "gpt2", "s3://bucket/model"])
def test_models_of_others_pass(name: str) -> None:
    """What the Hub or another store may have is vLLM's to find."""
    check_target(name)


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "~/model", "a/b/c", "a b", "", "\0"])
def test_paths_that_do_not_exist(name: str) -> None:
    """Nothing of this form is a model of the Hub."""
    with pytest.raises(TargetNameError, match="There is no folder"):
        check_target(name)


def test_folders(tmp_path: Path) -> None:
    """A model's folder has a config.json, or Mistral's params.json."""
    with pytest.raises(TargetNameError, match=r"has no config\.json"):
        check_target(str(tmp_path))
    check_target(str(tmp_path), {"--port", "--hf-config-path"})
    (tmp_path / "config.json").touch()
    check_target(str(tmp_path))


def test_drafts_given_as_targets(tmp_path: Path) -> None:
    """A GGUF file, here or on the Hub, is what --draft takes."""
    path = tmp_path / "model.gguf"
    for name in (str(path), "org/model.gguf"):
        with pytest.raises(TargetNameError, match="a GGUF file is a draft"):
            check_target(name)
    path.write_bytes(b"GGUF")
    with pytest.raises(TargetNameError, match="a GGUF file is a draft"):
        check_target(str(path))
    check_target(str(path), {"--load-format"})
    with pytest.raises(TargetNameError, match="leave out 'hf:'"):
        check_target("hf:org/name/model.gguf")


@pytest.mark.parametrize("arguments", [["depth-x99", "--port", "1"], ["--port", "1", "--model=depth-x99"]])
def test_the_server_says_it_and_stops(arguments: list[str]) -> None:
    """One line on stderr, exit code 1, and vLLM has not been asked."""
    command = [sys.executable, "-m", "pipesd_vllm.launch.serve", *arguments]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("pipesd serve: There is no target 'depth-x99' here: 'embedded' comes along")
    assert done.stderr.count("\n") == 1
