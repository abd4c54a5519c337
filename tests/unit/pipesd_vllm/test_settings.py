"""The limits an operator may set are on the page for operators."""

import re
from pathlib import Path

from pipesd_vllm.settings import ServerSettings

OPERATIONS = Path(__file__).resolve().parents[3] / "docs" / "operations.md"


def test_every_limit_is_documented_with_its_default() -> None:
    """docs/operations.md names each variable as one would set it, and no other."""
    rows = re.findall(
        r"^\| `PIPESD_SERVER_(\w+)=([\d.]+)`", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE
    )
    documented = {name.lower(): float(value) for name, value in rows}
    assert documented == {name: field.default for name, field in ServerSettings.model_fields.items()}
