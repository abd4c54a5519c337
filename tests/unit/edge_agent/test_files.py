"""Files are replaced as a whole."""

from pathlib import Path

import pytest

from edge_agent.files import replace_file


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    """The newest content stands alone in the folder."""
    path = tmp_path / "new" / "state.json"
    replace_file(path, b"1")
    replace_file(path, b"22")
    assert path.read_bytes() == b"22"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    """What cannot be moved into place is deleted."""
    path = tmp_path / "taken"
    (path / "by a folder").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        replace_file(path, b"1")
    assert list(tmp_path.iterdir()) == [path]
