"""The real stack: vLLM with the plugin, one server for the run, with a target of a few layers."""

from __future__ import annotations

import gc
import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipesd_vllm.launch.boot import boot

boot()  # before anything imports vLLM, as `pipesd serve` does it

# ruff: noqa: E402
import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from openai_gateway.cli.local_target import local_target
from openai_gateway.cli.processes import ServerProcess
from pipesd_vllm.launch.serve import EMBEDDED_TOOLS
from tests import pruned_pair

# How fast an example runs is the machine's business: a busy one must not fail a test. The examples are the
# same in every run, so that a failure is seen again by running its test again.
settings.register_profile(
    "any-machine",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any-machine")

API_KEY = "sk-test-verifier"
OTHER_API_KEY = "sk-test-other-tenant"
READY_S = 600.0
COMPACT_JSON = [
    "--structured-outputs-config",
    json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
]
"""A target that means nothing writes blanks between JSON's fields to the token limit, if it may."""


@dataclass(frozen=True)
class Verifier:
    """A running vLLM server with the plugin, and the draft model that goes with its target."""

    base_url: str
    api_key: str
    model: str
    process: ServerProcess
    draft: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}


@contextmanager
def running_verifier(
    target: str, model: str, draft: str, flags: list[str], log_dir: Path
) -> Iterator[Verifier]:
    """A server for `target`, called `model`; its arithmetic is float32, in which texts can be compared."""
    keys = ["--api-key", API_KEY, OTHER_API_KEY]
    with local_target(target, ["--dtype", "float32", *keys, *flags], log_dir=log_dir) as process:
        process.wait_ready(READY_S)
        yield Verifier(process.base_url, API_KEY, model, process, draft)


@contextmanager
def pruned_verifier(log_dir: Path, *flags: str) -> Iterator[Verifier]:
    """A server for the target of a few layers."""
    pair = pruned_pair.pruned_pair()
    flags = ("--enforce-eager", "--served-model-name", pruned_pair.NAME, *flags)
    with running_verifier(str(pair.target), pruned_pair.NAME, str(pair.draft), [*flags], log_dir) as verifier:
        yield verifier


@pytest.fixture(autouse=True)
def warnings_are_logged() -> None:
    """Packages that vLLM's front end brings along raise the root logger's level for the whole process."""
    logging.root.setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    """The server that engine tests share (tens of seconds to start); see `GROUPS`."""
    # The last two are what tests/e2e/test_rendering.py compares prompts with.
    flags = [*EMBEDDED_TOOLS, *COMPACT_JSON, "--enable-scale-out", "--trust-request-chat-template"]
    with pruned_verifier(tmp_path_factory.mktemp("verifier"), *flags) as verifier:
        yield verifier


@pytest.fixture(scope="session")
def embedded_verifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    """A server for the whole embedded model, as `pipesd up` starts it."""
    log_dir = tmp_path_factory.mktemp("embedded")
    with running_verifier("embedded", "SmolLM2-135M-Instruct", "embedded", [], log_dir) as verifier:
        yield verifier


GROUPS = {"embedded_verifier": "embedded engine", "thinker": "thinking engine", "verifier": "engine"}
"""Fixtures that are a server, the first one counts; and what pytest-xdist keeps on one worker for each.

So a server is started once a run, by the worker whose tests ask for it, and its tests come one after the
other: they compare its metrics before and after.
"""


def group_of(module: Path) -> str | None:
    """The group of a module's tests, by the server that its source asks for."""
    source = module.read_text(encoding="utf-8")
    return next((group for fixture, group in GROUPS.items() if f"{fixture}: Verifier" in source), None)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what needs the real engine, so that `-m "not engine"` leaves it out."""
    if not GROUPS.keys().isdisjoint(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.engine)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a server comes first: it is the longest run of tests, which no other worker can share."""
    items.sort(key=lambda item: item.get_closest_marker("engine") is None)


def pytest_collection_finish() -> None:
    """What has been imported stays: a full collection that goes through all of vLLM takes a second or two."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Triton tells at exit what was not collected."""
    gc.unfreeze()


class ByServer(LoadScopeScheduling):
    """Keeps a server's tests on one worker, and so a module's, for the fixtures they share.

    `--dist loadgroup` of pytest-xdist 3.8 does not group under pytest 9.2, whose node ids are read-only.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return group_of(self.config.rootpath / module) or module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByServer:
    """How `-n 2` shares the work out: in the order of collection."""
    config.option.loadscopereorder = False
    return ByServer(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each reason why tests were skipped: what this machine lacks must not go unseen."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple)
    )
    for reason, number in sorted(reasons.items()):
        terminalreporter.write_line(f"SKIPPED {number}: {reason}", yellow=True)
