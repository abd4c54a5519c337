"""The files under deploy/: they can be read, and they name what exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from edge_agent.settings import ENV_PREFIX, EdgeSettings
from openai_gateway.observe.metrics import GatewayMetrics
from pipesd_vllm.api import ServerMetrics

from .helm_template import Refused, render

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ["Dockerfile.edge", "Dockerfile.verifier"]
CHART = DEPLOY / "helm" / "pipesd-verifier"
OF_VLLM = {"vllm:num_requests_running", "vllm:kv_cache_usage_perc"}
"""What the dashboard asks of vLLM itself; the gateway has a metric of this name, too."""


def metric_names() -> set[str]:
    """Names of all samples that gateway and plugin can give."""
    gateway, server = GatewayMetrics(), CollectorRegistry()
    gateway.watch_link(lambda: None)
    ServerMetrics(server)
    families = [*gateway.registry.collect(), *server.collect()]
    names = set()
    for family in families:
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "pipesd.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def alert_rules() -> list[dict[str, Any]]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "pipesd.rules.yaml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("source", ["dashboard", "alert rules"])
def test_every_metric_that_is_queried_exists(source: str) -> None:
    """A metric that is renamed or removed changes dashboard and rules in the same commit."""
    texts = expressions() if source == "dashboard" else [rule["expr"] for rule in alert_rules()]
    asked = {name for text in texts for name in re.findall(r"(?:vllm:|pipesd_)\w+", text)}
    assert asked
    assert asked <= metric_names() | OF_VLLM


def test_what_the_dashboard_asks_of_vllm_exists() -> None:
    """By the names in the installed vLLM's own source."""
    loggers = pytest.importorskip("vllm.v1.metrics.loggers")
    source = Path(loggers.__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in source for name in OF_VLLM)


def test_an_operator_sees_who_takes_what() -> None:
    """Seats, parked sessions, the budget, rejected drafts by key and refusals are on the board."""
    shown = " ".join(expressions())
    for name in (
        "pipesd_seats",
        "pipesd_seats_taken",
        "pipesd_parked_sessions",
        "pipesd_step_draft_tokens",
        "pipesd_rejected_draft_tokens_total",
        "pipesd_refused_turns_total",
        "pipesd_refused_connections_total",
    ):
        assert f"{name}{{" in shown


def test_alerts_say_what_is_wrong() -> None:
    """Each has a name of its own, a time to last and a summary."""
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 4
    assert all(
        rule["for"] and rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_rules() -> None:
    """As its own checker has it."""
    file = DEPLOY / "prometheus" / "pipesd.rules.yaml"
    subprocess.run(["promtool", "check", "rules", str(file)], check=True, capture_output=True)


def test_every_metric_of_the_gateway_is_documented() -> None:
    """docs/operations.md has a row for each."""
    text = (ROOT / "docs" / "operations.md").read_text()
    documented = set(re.findall(r"^\| `([\w:]+)`", text, re.MULTILINE))
    gateway = GatewayMetrics()
    gateway.watch_link(lambda: None)
    assert documented == {family.name for family in gateway.registry.collect()}


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile's instructions, (name, arguments) in order, lines joined and comments left out."""

    instructions: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, name: str) -> Dockerfile:
        lines = [
            line for line in (DEPLOY / name).read_text().splitlines() if not line.lstrip().startswith("#")
        ]
        joined = re.sub(r"\\\s*\n", " ", "\n".join(lines))
        parts = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
        return cls(tuple((word.upper(), rest[0] if rest else "") for word, *rest in parts))

    def all(self, instruction: str) -> list[str]:
        return [arguments for name, arguments in self.instructions if name == instruction]

    def environment(self) -> dict[str, str]:
        pairs = [pair.split("=", 1) for line in self.all("ENV") for pair in shlex.split(line)]
        return dict(pairs)


def unit() -> dict[str, dict[str, list[str]]]:
    """The unit's settings by section, each with all its values."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in (DEPLOY / "systemd" / "pipesd-edge.service").read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, value = line.split("=", 1)
            section.setdefault(name, []).append(value)
    return sections


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"])


SETTINGS = {ENV_PREFIX + field.upper() for field in EdgeSettings.model_fields}
PRODUCT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_variables_in_deploy_files_are_settings() -> None:
    """Every PIPESD_ variable and credential that a file sets is a setting of the edge agent."""
    service = unit()["Service"]
    assigned = [pair.partition("=")[0] for line in service["Environment"] for pair in line.split()]
    credentials = [line.partition(":")[0].upper() for line in service["LoadCredential"]]
    for names in (
        Dockerfile.read("Dockerfile.edge").environment(),
        compose()["edge"]["environment"],
        [*assigned, *credentials],
    ):
        ours = {name for name in names if name.startswith(ENV_PREFIX)}
        assert ours
        assert ours <= SETTINGS


def test_an_image_that_listens_on_all_addresses_has_no_door_open_by_itself() -> None:
    """The edge's image asks for a key; compose does without one only while it publishes on loopback alone."""
    image = Dockerfile.read("Dockerfile.edge").environment()
    assert image["PIPESD_LISTEN_HOST"] == "0.0.0.0"
    assert "PIPESD_ALLOW_KEYLESS_NETWORK" not in image
    edge = compose()["edge"]
    assert edge["environment"]["PIPESD_ALLOW_KEYLESS_NETWORK"] == "true"
    assert all(port.startswith("127.0.0.1:") for port in edge["ports"])


def test_compose_builds_what_is_there() -> None:
    """Both services name a Dockerfile that is there and arguments that it takes; no key is written down."""
    assert set(compose()) == {"verifier", "edge"}
    for service in compose().values():
        built = service["build"]
        assert (DEPLOY / built["context"] / built["dockerfile"]).is_file()
        taken = {
            line.partition("=")[0] for line in Dockerfile.read(Path(built["dockerfile"]).name).all("ARG")
        }
        assert built["args"].keys() <= taken
        keys = [value for name, value in service["environment"].items() if name.endswith("API_KEY")]
        assert keys
        assert all(value.startswith("${") for value in keys)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_copy_what_a_build_sees(name: str) -> None:
    """Sources of COPY exist and pass .dockerignore: all that the wheel is built from, and no more."""
    sources = []
    for line in Dockerfile.read(name).all("COPY"):
        if not line.startswith("--from"):
            sources += shlex.split(line)[:-1]
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert all((ROOT / source).exists() for source in sources)
    assert "*" in ignore
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == set(sources)
    packages = {"edge_agent", "openai_gateway", "pipesd_vllm"}
    licences = {file for file in PRODUCT["license-files"] if file.partition("/")[0] not in packages}
    assert set(sources) == {"pyproject.toml", PRODUCT["readme"], *licences, *packages}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_install_extras_that_exist(name: str) -> None:
    """Extras of pip, and those that compose asks for, are those of pyproject.toml."""
    file = Dockerfile.read(name)
    chosen = [line.partition("=")[2] for line in file.all("ARG") if line.startswith("EXTRAS=")]
    chosen += [service["build"]["args"].get("EXTRAS", "") for service in compose().values()]
    named = [text for line in file.all("RUN") for text in re.findall(r'"\.\[([\w,-]+)\]"', line)]
    assert chosen[0] or named
    extras = {extra for text in (*chosen, *named) for extra in text.split(",") if extra}
    assert extras <= PRODUCT["optional-dependencies"].keys()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_are_what_a_release_makes_of_them(name: str) -> None:
    """Base image and version are arguments, so that a release can set a digest; no process is root."""
    file = Dockerfile.read(name)
    assert {line.split()[0] for line in file.all("FROM")} == {"${PYTHON_IMAGE}"}
    assert {"PYTHON_IMAGE", "VERSION"} <= {line.partition("=")[0] for line in file.all("ARG")}
    assert file.environment()["SETUPTOOLS_SCM_PRETEND_VERSION_FOR_PIPESD"] == "${VERSION}"
    assert file.all("USER")[-1] == "10001"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    """hadolint, which reads Dockerfiles as Docker does and knows their usual mistakes, finds none."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hadolint = shutil.which("hadolint", path=path)
    if hadolint is None:
        pytest.skip("hadolint is not installed (the extra `dev` has it on Linux, x86-64)")
    done = subprocess.run([hadolint, str(DEPLOY / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_unit_starts_the_agent_with_its_key_as_a_credential() -> None:
    """systemd's unit starts `pipesd edge`; the server's key is in no variable that others could read."""
    service = unit()["Service"]
    assert service["ExecStart"] == ["/opt/pipesd/bin/pipesd edge"]
    assert service["LoadCredential"] == ["pipesd_api_key:/etc/pipesd/api-key"]
    assert not any("KEY" in line for line in service["Environment"])
    assert unit()["Install"]["WantedBy"] == ["multi-user.target"]


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """systemd's own reader has nothing to say of any line, once the command exists."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / "systemd" / "pipesd-edge.service").read_text()
    copy = tmp_path / "pipesd-edge.service"
    copy.write_text(text.replace("/opt/pipesd/bin/pipesd", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


KEYLESS: dict[str, Any] = {"model": "org/model", "allowKeyless": True}
FULL: dict[str, Any] = {
    "model": "org/model",
    "apiKeySecret": "server",
    "extraArgs": ["--max-model-len", "8192"],
    "env": [{"name": "HF_TOKEN", "value": "x y"}],
    "imagePullSecrets": [{"name": "registry"}],
    "image": {"repository": "registry.example/pipesd-verifier", "digest": "sha256:" + "0" * 64},
    "cacheSize": "100Gi",
    "nodeSelector": {"gpu": "h100"},
    "prometheusAnnotations": False,
}


def by_kind(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in render(CHART, values)}


def test_the_chart_as_it_is_used_at_first() -> None:
    """A model alone: one pod that is not root, with the chart's own version as tag, served by its service."""
    documents = by_kind(KEYLESS)
    assert set(documents) == {"Deployment", "Service"}
    pod = documents["Deployment"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert (
        container["image"]
        == f"pipesd-verifier:{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}"
    )
    assert container["args"] == ["org/model", "--host", "0.0.0.0"]
    assert container["env"] == [{"name": "VLLM_NO_USAGE_STATS", "value": "1"}]
    assert container["startupProbe"]["failureThreshold"] == 180
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["spec"]["volumes"][1] == {"name": "cache", "emptyDir": {}}
    assert documents["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_the_chart_with_all_that_can_be_set() -> None:
    """Key, digest, cache, flags and environment arrive where they belong."""
    documents = by_kind(FULL)
    assert documents["PersistentVolumeClaim"]["spec"]["resources"]["requests"]["storage"] == "100Gi"
    deployment = documents["Deployment"]["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}
    pod = deployment["template"]
    assert "annotations" not in pod["metadata"]
    container = pod["spec"]["containers"][0]
    assert container["image"] == f"registry.example/pipesd-verifier@sha256:{'0' * 64}"
    assert container["args"][-2:] == ["--max-model-len", "8192"]
    key, token, _ = container["env"]
    assert key["valueFrom"]["secretKeyRef"] == {"name": "server", "key": "api-key"}
    assert token == {"name": "HF_TOKEN", "value": "x y"}
    claim = documents["PersistentVolumeClaim"]["metadata"]["name"]
    assert pod["spec"]["volumes"][1]["persistentVolumeClaim"] == {"claimName": claim}


@pytest.mark.parametrize(
    ("values", "told"), [({"model": "org/model"}, "apiKeySecret"), ({"allowKeyless": True}, "model")]
)
def test_the_chart_refuses_what_is_not_decided(values: dict[str, Any], told: str) -> None:
    """Neither a server without a key nor one without a model comes about by omission."""
    with pytest.raises(Refused, match=told):
        render(CHART, values)


@pytest.mark.parametrize("values", [KEYLESS, FULL], ids=["keyless", "full"])
def test_helm_renders_the_same(values: dict[str, Any], tmp_path: Path) -> None:
    """Where Helm is installed: it has nothing against the chart, and makes of it what these tests look at."""
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("helm is not installed")
    (file := tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    subprocess.run(
        [helm, "lint", "--strict", str(CHART), "--values", str(file)], check=True, capture_output=True
    )
    command = [helm, "template", "release", str(CHART), "--values", str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rendered = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
    assert rendered == by_kind(values)
