"""Models by name."""

from pathlib import Path

from benchmarks.pairs.catalog import Catalog, draft_description, target_description


def test_other_names_pass(tmp_path: Path) -> None:
    """Paths, Hugging Face ids and "embedded" are what they are, and nothing is made for them."""
    catalog = Catalog(tmp_path)
    assert catalog.draft("embedded") == "embedded"
    assert catalog.draft("hf:a/b/c.gguf") == "hf:a/b/c.gguf"
    assert catalog.target("org/model") == "org/model"
    assert list(tmp_path.iterdir()) == []


def test_descriptions_say_what_they_are() -> None:
    """A reader of the report learns that layers are missing, or that they add zero."""
    assert "without its layers 4, 5, 3 of 30" in draft_description("minus-3-layers")
    assert "padded 2-fold" in target_description("depth-x2")
    assert "padded 1.5-fold" in target_description("depth-x1.5")
    assert target_description("org/model") == "org/model"
