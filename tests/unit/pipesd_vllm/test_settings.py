"""The limits an operator may set are on the page for operators."""

import re
from pathlib import Path

import pytest

from pipesd_vllm.settings import ServerSettings

OPERATIONS = Path(__file__).resolve().parents[3] / "docs" / "operations.md"


def test_every_limit_is_documented_with_its_default() -> None:
    """docs/operations.md names each variable as one would set it, and no other."""
    rows = re.findall(
        r"^\| `PIPESD_SERVER_(\w+)=([\d.]+)`", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE
    )
    documented = {name.lower(): float(value) for name, value in rows}
    assert documented == {name: field.default for name, field in ServerSettings.model_fields.items()}


@pytest.mark.parametrize(("num_keys", "most"), [(0, 100), (1, 100), (2, 50), (4, 25), (40, 25)])
def test_a_key_has_its_share_and_never_less_than_an_equal_part(num_keys: int, most: int) -> None:
    """A server with one key or none is not limited by it; with many a key has the share that is set."""
    assert ServerSettings(max_sessions=100, key_share=0.25).max_sessions_per_key(num_keys) == most


def test_a_share_is_at_least_one_connection() -> None:
    """However small the server."""
    assert ServerSettings(max_sessions=2, key_share=0.01).max_sessions_per_key(50) == 1
