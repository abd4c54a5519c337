"""The documents as a site: built whole, without a warning, which a dead link is."""

import logging
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_is_built_and_its_links_hold(tmp_path: Path) -> None:
    """Pages, anchors and pictures that a document names are there; every document is in the menu."""
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"CHANGELOG", "CONTRIBUTING"}
    built = {path.parent.name for path in tmp_path.glob("*/index.html")}
    assert pages <= built
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="quickstart/"' in index
    assert 'src="idea.svg"' in index


@pytest.mark.parametrize("link", ["nowhere.md", "api.md#no-such-place", "../docs/nowhere.md"])
def test_a_dead_link_fails(tmp_path: Path, link: str, caplog: pytest.LogCaptureFixture) -> None:
    """Strict: a page that names what is not there ends the build."""
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"))
    docs = tmp_path / "docs"
    docs.mkdir()
    for page in (ROOT / "docs").iterdir():
        (docs / page.name).symlink_to(page)
    (docs / "faq.md").unlink()
    (docs / "faq.md").write_text(f"# Questions\n\n[there]({link})\n", encoding="utf-8")
    config.docs_dir = str(docs)
    with caplog.at_level(logging.WARNING, logger="mkdocs"), pytest.raises(Abort):
        build(config)
    assert link.split("/")[-1].split("#")[-1] in caplog.text
