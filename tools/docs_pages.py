"""Hook of mkdocs: README, CHANGELOG and CONTRIBUTING become pages, and links are those of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that stand at the repository's root."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_linked(text, ROOT)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of `docs/` lead to those pages."""
    return markdown if page.file.generated_by else _linked(markdown, ROOT / "docs")


def _linked(text: str, folder: Path) -> str:
    """Links, written for files in `folder`, as the site's; one to source code becomes its text alone."""

    def moved(match: re.Match[str]) -> str:
        path, hash_, anchor = match[1].partition("#")
        if not path or ":" in path:
            return match[0]
        target = (folder / path).resolve()
        if not target.exists():
            return match[0]  # mkdocs says so
        if target.parent == ROOT and target.name in PAGES:
            return f"]({PAGES[target.name]}{hash_}{anchor})"
        if target.is_relative_to(ROOT / "docs"):
            return f"]({target.relative_to(ROOT / 'docs').as_posix()}{hash_}{anchor})"
        return "](index.md)" if target.is_relative_to(ROOT) else match[0]

    return LINK.sub(moved, text)
