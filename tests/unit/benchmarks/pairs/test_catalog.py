"""Models by name."""

from pathlib import Path

import pytest

from benchmarks.pairs.catalog import Catalog, draft_description, target_description
from openai_gateway.cli.errors import CliError


def test_other_names_pass(tmp_path: Path) -> None:
    """Paths, Hugging Face ids and "embedded" are what they are, and nothing is made for them."""
    catalog = Catalog(tmp_path)
    assert catalog.draft("embedded") == "embedded"
    assert catalog.draft("hf:a/b/c.gguf") == "hf:a/b/c.gguf"
    assert catalog.target("org/model") == "org/model"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["depth-x99", "depth-x1", "depth-x9.5", "depth-2"])
def test_targets_that_are_not_made(tmp_path: Path, name: str) -> None:
    """A number that there is no depth for is told with those that there are, and not taken for a Hub's id."""
    with pytest.raises(CliError, match=f"no target '{name}': made here are depth-x1.1 to depth-x8.9"):
        Catalog(tmp_path).target(name)


def test_drafts_that_are_not_made(tmp_path: Path) -> None:
    """So with drafts."""
    with pytest.raises(CliError, match="no draft 'minus-9-layers': made here are minus-3-layers, "):
        Catalog(tmp_path).draft("minus-9-layers")


def test_descriptions_say_what_they_are() -> None:
    """A reader of the report learns that layers are missing, or that they add zero."""
    assert "without its layers 4, 5, 3 of 30" in draft_description("minus-3-layers")
    assert "padded 2-fold" in target_description("depth-x2")
    assert "padded 1.5-fold" in target_description("depth-x1.5")
    assert target_description("org/model") == "org/model"
