"""What the packages of the edge offer to others."""

import subprocess
import sys
from importlib import import_module

import pytest

PACKAGES = ["control", "drafting", "sampling", "testing", "tracing"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_on_a_face_can_be_imported(package: str) -> None:
    """Those that are imported on first use, too; others are refused as in any module."""
    face = import_module(f"edge_agent.{package}")
    assert all(getattr(face, name) is not None for name in face.__all__)
    assert not hasattr(face, "Nonesuch")


def test_faces_do_not_import_what_is_heavy() -> None:
    """A command that names a policy or draws a trace waits for no tokenizer, grammar or model library."""
    imports = ", ".join(f"edge_agent.{package}" for package in PACKAGES if package != "testing")
    heavy = "{'tokenizers', 'llguidance', 'llama_cpp', 'torch', 'huggingface_hub'}"
    code = f"import sys, {imports}; sys.exit(', '.join({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr.strip() == ""
