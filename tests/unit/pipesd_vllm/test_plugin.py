"""An installed pipesd leaves every vLLM alone that `pipesd serve` has not started."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipesd_vllm.compat import UnsupportedVllmError
from pipesd_vllm.plugin import SWITCH, NoEndpoint, endpoint_plugin, register

CALL_ENTRY_POINTS = """
import sys
from importlib.metadata import entry_points
import vllm
assert vllm.__version__ == "9.9.0", vllm.__file__
for group in ("vllm.general_plugins", "vllm.endpoint_plugins"):
    (entry,) = entry_points(group=group, name="pipesd")
    entry.load()()
print(sorted(name for name in sys.modules if name.startswith(("vllm", "torch"))))
"""


@pytest.fixture
def another_vllm(tmp_path: Path) -> Path:
    """A folder for `PYTHONPATH` in which vLLM is version 9.9.0, with nothing inside."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("__version__ = '9.9.0'\n", encoding="utf-8")
    info = tmp_path / "vllm-9.9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 9.9.0\n", encoding="utf-8")
    return tmp_path


def beside(vllm: Path, command: list[str], **changes: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(part for part in (str(vllm), os.environ.get("PYTHONPATH")) if part)
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    return subprocess.run(
        [sys.executable, *command],
        env={**environment, "PYTHONPATH": path, **changes},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_any_version_runs_beside_the_installed_plugin(another_vllm: Path) -> None:
    """Both installed entry points do nothing there: no exception, and nothing of vLLM or torch imported."""
    done = beside(another_vllm, ["-c", CALL_ENTRY_POINTS])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['vllm']"


def test_switched_on_another_version_is_refused_by_name(another_vllm: Path) -> None:
    """The entry point stops vLLM, and `pipesd serve` stops with one sentence before vLLM starts."""
    done = beside(another_vllm, ["-c", CALL_ENTRY_POINTS], **{SWITCH: "1"})
    assert done.returncode == 1
    refusal = "pipesd supports vLLM 0.32.x and 0.33.x, but vLLM 9.9.0 is installed"
    assert f"UnsupportedVllmError: {refusal}" in done.stderr
    done = beside(another_vllm, ["-m", "pipesd_vllm.launch.serve", "org/model"])
    assert done.returncode == 1
    assert done.stderr.startswith(f"pipesd serve: {refusal}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("environment", [{}, {SWITCH: "0"}, {SWITCH: ""}])
def test_without_the_switch_no_version_is_asked_for(environment: dict[str, str]) -> None:
    """The version is not even read."""
    register(environment, lambda: pytest.fail("the version was read"))


@pytest.mark.parametrize("version", ["0.31.0", "0.34.0"])
def test_with_the_switch_the_version_counts(version: str) -> None:
    """The supported lines pass, their neighbours do not."""
    register({SWITCH: "1"}, lambda: "0.32.5")
    register({SWITCH: "1"}, lambda: "0.33.0")
    with pytest.raises(UnsupportedVllmError, match=version):
        register({SWITCH: "1"}, lambda: version)


async def test_without_the_switch_there_are_no_routes() -> None:
    """The plugin fits vLLM's protocol and asks for a task that no server has, so vLLM passes it over."""
    plugin = endpoint_plugin({})
    assert isinstance(plugin, NoEndpoint)
    assert plugin.required_tasks == ()
    app = object()
    plugin.attach_router(app)
    await plugin.init_state(None, app, None)


def test_with_the_switch_there_are() -> None:
    """The endpoint serves generating models."""
    assert endpoint_plugin({SWITCH: "1"}).required_tasks == ("generate",)


FACES = ("api", "launch", "scheduling", "wire")


@pytest.mark.parametrize("package", FACES)
def test_a_package_has_what_its_face_promises(package: str) -> None:
    """Names that are imported when first asked for included; others are no attributes."""
    face = importlib.import_module(f"pipesd_vllm.{package}")
    assert face.__all__
    assert all(getattr(face, name) is not None for name in face.__all__)
    assert not hasattr(face, "no_such_name")


def test_faces_are_light() -> None:
    """Importing the packages imports neither vLLM nor torch."""
    code = "import sys; " + "; ".join(f"import pipesd_vllm.{package}" for package in FACES)
    code += "; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("set()", 0), done.stderr
