"""docs/architecture.md describes the tree as it is."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipesd_vllm", "edge_agent", "openai_gateway")


def section(package: str) -> str:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return text.split(f"### `{package}`")[1].split("### ")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_described_and_nothing_else(package: str) -> None:
    """A module added, moved or removed changes the architecture page in the same commit."""
    folder = ROOT / package
    modules = {str(path.relative_to(folder)) for path in folder.rglob("*.py") if path.name != "__init__.py"}
    described = {line.split("`")[1] for line in section(package).splitlines() if line.startswith("| `")}
    assert described == modules
