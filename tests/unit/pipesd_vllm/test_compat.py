"""Only the vLLM this plugin was built for is accepted."""

from pathlib import Path

import pytest

from pipesd_vllm.compat import UnsupportedVllmError, check_version, installed_version


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.32.0", "0.3"])
def test_other_versions_are_refused_by_name(version: str) -> None:
    """The refusal names both versions."""
    with pytest.raises(UnsupportedVllmError) as caught:
        check_version(version)
    assert version in str(caught.value)
    assert "0.32" in str(caught.value)


def test_the_installed_version_is_accepted() -> None:
    """The vLLM of this environment is in the supported range, patch releases included."""
    check_version(installed_version())
    check_version("0.32.1+cpu")


def test_every_name_stands_in_a_table() -> None:
    """In docs/vllm_surface.md no blank line cuts rows off their table's head."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "vllm_surface.md").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in page.split("\n\n") if block.lstrip().startswith("|")]
    assert blocks
    assert all(len(block) > 2 and block[1].startswith("|---") for block in blocks)
