"""The documents describe the tree as it is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCTS = ("pipesd_vllm", "edge_agent", "openai_gateway")
DOCUMENTS = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
PATH = re.compile(r"`((?:pipesd_vllm|edge_agent|openai_gateway|benchmarks|tests|deploy|tools)/[\w./-]+)")


def test_every_package_has_a_line_and_nothing_else_has() -> None:
    """A package added, moved or removed changes the architecture page in the same commit."""
    packages = {
        str(folder.parent.relative_to(ROOT))
        for product in PRODUCTS
        for folder in (ROOT / product).rglob("__init__.py")
        if folder.parent.name != product
    }
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    described = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert described == packages


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    """Whoever follows a document finds the file."""
    if document.name in ("moved.md", "CHANGELOG.md"):
        pytest.skip("names paths of older versions")
    missing = [
        path for path in PATH.findall(document.read_text(encoding="utf-8")) if not (ROOT / path).exists()
    ]
    assert not missing
