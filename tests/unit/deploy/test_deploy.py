"""The files under deploy/: they can be read, and they name what exists."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from edge_agent.settings import ENV_PREFIX, EdgeSettings
from openai_gateway.observe.metrics import GatewayMetrics
from pipesd_vllm.api import ServerMetrics

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "pipesd-verifier"
OF_VLLM = {"vllm:num_requests_running"}
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


def test_every_metric_of_the_dashboard_exists() -> None:
    """A metric that is renamed or removed changes the dashboard in the same commit."""
    asked = {name for text in expressions() for name in re.findall(r"(?:vllm:|pipesd_)\w+", text)}
    assert asked
    assert asked <= metric_names() | OF_VLLM


def test_every_metric_of_the_gateway_is_documented() -> None:
    """docs/operations.md has a row for each."""
    text = (ROOT / "docs" / "operations.md").read_text()
    documented = set(re.findall(r"^\| `([\w:]+)`", text, re.MULTILINE))
    gateway = GatewayMetrics()
    gateway.watch_link(lambda: None)
    assert documented == {family.name for family in gateway.registry.collect()}


def environment_names(text: str) -> set[str]:
    return set(re.findall(rf"\b({ENV_PREFIX}(?!SERVER_)[A-Z_]+)[:=]", text))


@pytest.mark.parametrize("name", ["compose.yaml", "Dockerfile.edge", "systemd/pipesd-edge.service"])
def test_settings_in_deploy_files_exist(name: str) -> None:
    """Every PIPESD_ variable that a file sets is a setting of the edge agent."""
    found = environment_names((DEPLOY / name).read_text())
    assert found
    assert found <= {ENV_PREFIX + field.upper() for field in EdgeSettings.model_fields}


def test_an_image_that_listens_on_all_addresses_has_no_door_open_by_itself() -> None:
    """The edge's image asks for a key; compose does without one only while it publishes on loopback alone."""
    assert "PIPESD_LISTEN_HOST=0.0.0.0" in (DEPLOY / "Dockerfile.edge").read_text()
    image = re.findall(r"^ENV (.*)$", (DEPLOY / "Dockerfile.edge").read_text(), re.MULTILINE)
    assert not any("KEYLESS" in line for line in image)
    edge = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["edge"]
    assert edge["environment"]["PIPESD_ALLOW_KEYLESS_NETWORK"] == "true"
    assert all(port.startswith("127.0.0.1:") for port in edge["ports"])
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert (values["apiKeySecret"], values["allowKeyless"]) == ("", False)


def test_compose_builds_what_is_there() -> None:
    """Both services name a Dockerfile of the repository, and keys are never written down."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(compose["services"]) == {"verifier", "edge"}
    for service in compose["services"].values():
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        keys = [value for name, value in service["environment"].items() if name.endswith("API_KEY")]
        assert all(value.startswith("${") for value in keys)


@pytest.mark.parametrize("name", ["Dockerfile.edge", "Dockerfile.verifier"])
def test_dockerfiles_copy_and_install_what_is_there(name: str) -> None:
    """Sources of COPY exist, extras of pip are those of pyproject.toml, and the process is not root."""
    text = (DEPLOY / name).read_text()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in shlex.split(line)[:-1])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r'"\.\[([\w-]+)\]"', text)
    assert named
    assert set(named) <= extras.keys()
    assert re.search(r"^USER pipesd$", text, re.MULTILINE)


def test_the_unit_has_its_sections() -> None:
    """systemd's file can be read, and starts a command that exists."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "pipesd-edge.service")
    assert unit.sections() == ["Unit", "Service", "Install"]
    assert unit["Service"]["ExecStart"].endswith("bin/pipesd edge")


def test_the_charts_plain_files_can_be_read() -> None:
    """Chart and values are YAML; every value that a template asks for has a default."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert chart["name"] == CHART.name
    for template in (CHART / "templates").iterdir():
        for path in re.findall(r"\.Values\.([\w.]+)", template.read_text()):
            value: Any = values
            for part in path.split("."):
                assert part in value, f"{template.name} asks for {path}"
                value = value[part]


@pytest.mark.parametrize("template", ["deployment.yaml", "service.yaml", "cache.yaml"])
def test_the_charts_templates_are_balanced_yaml(template: str) -> None:
    """With actions taken out, as both branches of each condition, what is left is YAML.

    This is no Helm: it checks the form around the actions, not what they give.
    """
    text = (CHART / "templates" / template).read_text()
    opened = len(re.findall(r"\{\{-? (?:if|with|range)\b", text))
    assert opened == len(re.findall(r"\{\{-? end\b", text))
    text = re.sub(r"^\s*\{\{-? (?:if|else|end|with|range).*\}\}\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\{\{.*?\}\}", "0", text)
    assert yaml.safe_load(text)["kind"]
