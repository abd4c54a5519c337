"""Each threat that docs/security.md names is held by a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").split("## Threats")[1]
ROWS = [line for line in TABLE.splitlines() if line.startswith("|")][2:]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def defined_in(path: Path) -> set[str]:
    """Names of the test functions in `path`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")}


def missing(row: str) -> list[str]:
    """What the last cell of `row` names and is not there; the row itself if it names nothing."""
    named = NAMED.findall(row.rsplit("|", 2)[1])
    if not named:
        return [row]
    found = {path: defined_in(ROOT / path) if (ROOT / path).is_file() else set() for path, _ in named}
    return [
        f"{path}::{name}" for path, name in named if not found[path] or (name and name not in found[path])
    ]


def test_every_threat_is_held_by_a_test() -> None:
    """No row without one, and none whose test has gone or has another name."""
    assert len(ROWS) > 20
    assert [problem for row in ROWS for problem in missing(row)] == []


def test_what_is_missing_is_found() -> None:
    """A row without a test, one whose file has gone, one whose test has another name."""
    assert missing("| a | b | c | nothing |")
    assert missing("| a | b | c | `tests/unit/test_gone.py` |") == ["tests/unit/test_gone.py::"]
    own = "tests/unit/test_security_page.py"
    assert missing(f"| a | b | c | `{own}::test_another` |") == [f"{own}::test_another"]
    assert missing(f"| a | b | c | `{own}::test_what_is_missing_is_found` |") == []
