"""`tools/setup.py`: every obstacle is one sentence, and the pinned versions fit the project."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SCRIPT = Path(__file__).parents[3] / "tools" / "setup.py"


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pipesd_setup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(file: Path) -> dict[str, list[Requirement]]:
    """The pinned versions by package name: one, or one for each kind of machine."""
    found: dict[str, list[Requirement]] = {}
    for line in file.read_text().splitlines():
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_needs_the_standard_library_only() -> None:
    """The script loads in a Python without any installed package."""
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 2)])
def test_supported_pythons(setup: ModuleType, version: tuple[int, ...]) -> None:
    """The oldest and the newest supported Python pass."""
    setup.check_python(version)


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 15, 0)])
def test_unsupported_python(setup: ModuleType, version: tuple[int, ...]) -> None:
    """Another Python is named with the range and the way to choose one."""
    found = f"{version[0]}.{version[1]}"
    with pytest.raises(
        setup.SetupError, match=rf"^Python 3.11 to 3.14 is needed, this is {found}: .*PYTHON="
    ):
        setup.check_python(version)


def test_missing_compiler(setup: ModuleType, tmp_path: Path) -> None:
    """Without a C++ compiler: what needs it and how to install it."""
    with pytest.raises(setup.SetupError, match=r"^No C\+\+ compiler found .*apt install g\+\+"):
        setup.check_compiler(str(tmp_path), None)


@pytest.mark.parametrize(
    ("installed", "compiler"), [("g++", None), ("clang++", None), ("my-cxx", "my-cxx -O2")]
)
def test_compilers_that_are_found(
    setup: ModuleType, tmp_path: Path, installed: str, compiler: str | None
) -> None:
    """Any usual compiler counts, and what CXX names (with flags) does."""
    file = tmp_path / installed
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    setup.check_compiler(str(tmp_path), compiler)


def test_full_disk(setup: ModuleType, tmp_path: Path) -> None:
    """Too little room: how much is needed, where, and how much there is."""
    setup.check_disk(tmp_path, 0)
    with pytest.raises(
        setup.SetupError, match=rf"^1e\+06 GB of free disk are needed at {tmp_path}, [0-9.]+ GB are"
    ):
        setup.check_disk(tmp_path, 1e6)


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("NewConnectionError ...\nERROR: No matching distribution found for uv==0.13.9", "cannot be reached"),
        ("error: Request failed after 3 retries\n  Caused by: Failed to fetch: `x`", "cannot be reached"),
        ("  ERROR: Failed building wheel for llama-cpp-python", "llama.cpp did not compile"),
        ("  cause: Because there is no version of torch{linux}==2.13.0+cpu", "no CPU build of torch"),
        ("  cause: Because torch==2.13.0+cpu has no wheels with a matching", "no CPU build of torch"),
        ("error: No solution found\n  cause: Because a==1 needs b", "Because a==1 needs b; see "),
        ("ERROR: something\nERROR: else", "else; see "),
        (
            "  \N{MULTIPLICATION SIGN} Failed to build `six==1.0`",
            "Failed to build `six==1.0`; see ",
        ),
        ("", "a command failed; see "),
    ],
)
def test_failures_are_explained(setup: ModuleType, output: str, advice: str) -> None:
    """The causes that a newcomer meets get advice, the others the installer's own last error and the log."""
    assert advice in setup.explain_failure(output, Path("setup.log"))


def test_steps_are_logged(setup: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A step prints its title and time; what it says is in the log, also when it fails."""
    log_file = tmp_path / "setup.log"
    setup.run_step("Counting", ["sh", "-c", "echo one"], log_file)
    with pytest.raises(setup.SetupError, match=rf"^Failing failed: two; see {log_file}\.$"):
        setup.run_step("Failing", ["sh", "-c", "echo ERROR: two; exit 3"], log_file)
    assert "Counting: done, 0:00" in capsys.readouterr().out
    assert log_file.read_text().splitlines() == [
        "$ sh -c echo one",
        "one",
        "$ sh -c echo ERROR: two; exit 3",
        "ERROR: two",
    ]


def test_uv_reaches_packages_as_pip_does(setup: ModuleType) -> None:
    """pip's places and limits become uv's: environment over section over global, several values apart."""
    config = "\n".join(
        [
            "global.constraint='limits.txt'",
            "global.extra-index-url='https://one.example/simple\\nhttps://two.example/simple'",
            "global.index-url='https://global.example/simple'",
            "install.index-url='https://install.example/simple'",
            "global.find-links='a'",
            ":env:.find-links='b c'",
            "global.disable-pip-version-check='1'",
        ]
    )
    assert (
        setup.uv_environment(config, {"UV_CONSTRAINT": "mine.txt"}).items()
        >= {
            "UV_DEFAULT_INDEX": "https://install.example/simple",
            "UV_INDEX": "https://one.example/simple https://two.example/simple",
            "UV_FIND_LINKS": "b,c",
            "UV_CONSTRAINT": "mine.txt",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
        }.items()
    )
    assert "UV_TORCH_BACKEND" not in setup.uv_environment(config, {})


@pytest.mark.parametrize("config", ["", "global.index-url='https://mirror.example/simple'"])
def test_the_cpu_build_of_torch_is_uvs_business_elsewhere(setup: ModuleType, config: str) -> None:
    """Where pip names no place beside its index, uv takes torch's CPU build from where it knows one."""
    assert setup.uv_environment(config, {})["UV_TORCH_BACKEND"] == "cpu"
    assert setup.uv_environment(config, {"UV_TORCH_BACKEND": "auto"})["UV_TORCH_BACKEND"] == "auto"


def test_a_compiled_llama_cpp_is_kept_for_one_kind_of_machine(setup: ModuleType, tmp_path: Path) -> None:
    """The wheel's folder changes with the CPU and the user's CMAKE_ARGS, and with nothing else around."""

    def folder(cpu_flags: str, **environment: str) -> Path:
        kept, building = setup.llama_build({"XDG_CACHE_HOME": str(tmp_path)} | environment, cpu_flags)
        assert environment.get("CMAKE_ARGS", "") in building["CMAKE_ARGS"]
        return Path(kept)

    assert folder("avx2", LANG="C") == folder("avx2")
    assert tmp_path in folder("avx2").parents
    assert folder("avx2 avx512f") != folder("avx2")
    assert folder("avx2", CMAKE_ARGS="-DGGML_NATIVE=OFF") != folder("avx2")


@pytest.mark.parametrize("level", ["demo", "all"])
def test_pinned_versions_are_what_the_project_asks_for(setup: ModuleType, level: str) -> None:
    """All requirements have a fitting, exact version without an address; `make lock` renews them."""
    locked = pins(setup.ROOT / setup.LOCKS[level])
    for requirement in (requirement for several in locked.values() for requirement in several):
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
    for folder in setup.distributions() if level == "all" else [setup.ROOT]:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        extras = project.get("optional-dependencies", {})
        asked = list(project["dependencies"])
        asked += [text for extra in setup.EXTRAS[level] for text in extras.get(extra, [])]
        for requirement in map(Requirement, asked):
            if requirement.name == "pipesd":
                asked += [text for extra in requirement.extras for text in extras.get(extra, [])]
            else:
                (pinned, *_) = locked[canonicalize_name(requirement.name)]
                version = str(pinned.specifier).removeprefix("==")
                assert requirement.specifier.contains(version, prereleases=True), (
                    f"{requirement}: run `make lock`"
                )


def test_the_demos_versions_are_the_tests(setup: ModuleType) -> None:
    """What the demo installs is a part of what tests run with, to the version."""
    demo, everything = (pins(setup.ROOT / setup.LOCKS[level]) for level in ("demo", "all"))
    assert {name: everything[name] for name in demo} == demo


def test_without_what_does_not_fit_and_with_what_vllm_needs(setup: ModuleType) -> None:
    """No build of torch with CUDA on Linux, none of its unused sisters; Triton is there."""
    locked = pins(setup.ROOT / setup.LOCKS["demo"])
    linux = {"sys_platform": "linux", "platform_machine": "x86_64"}
    (torch,) = (pin for pin in locked["torch"] if pin.marker is not None and pin.marker.evaluate(linux))
    assert str(torch.specifier).endswith("+cpu")
    assert not {"torchvision", "torchaudio", "torchcodec"} & locked.keys()
    assert "triton" in locked
