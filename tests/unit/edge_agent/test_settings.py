"""Settings: where they come from, which source wins, and how a mistake is explained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_agent.errors import ConfigError
from edge_agent.settings import EdgeSettings, default_config_file, load_settings, setting_origins

URL = "http://gpu:8000"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path) -> Iterator[None]:
    """No PIPESD_ variables and an empty configuration folder, for this test."""
    saved = dict(os.environ)
    for name in [name for name in os.environ if name.upper().startswith(("PIPESD_", "CREDENTIALS_"))]:
        del os.environ[name]
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(saved)


def write_config(text: str, file: Path | None = None) -> Path:
    file = file or default_config_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_defaults_need_only_the_server() -> None:
    """With the server's address alone, everything else has a usable default."""
    settings = load_settings({"cloud_url": URL, "draft": None})
    assert (settings.draft, settings.mode, settings.listen_host) == ("embedded", "auto", "127.0.0.1")
    assert (settings.listen_port, settings.max_ahead, settings.api_key) == (8650, 16, None)


def test_flags_beat_environment_beats_file() -> None:
    """Each source overrides those below it, setting by setting."""
    write_config('cloud_url = "http://file:1"\nmax_ahead = 3\npatience_ms = 30\ndraft_threads = 3')
    os.environ |= {"PIPESD_MAX_AHEAD": "2", "PIPESD_PATIENCE_MS": "20"}
    settings = load_settings({"patience_ms": 10})
    assert (settings.patience_ms, settings.max_ahead, settings.draft_threads) == (10, 2, 3)
    assert settings.cloud_url == "http://file:1"


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_another_config_file_can_be_named(tmp_path: Path, how: str) -> None:
    """A file named by flag or environment is read instead of the default one."""
    write_config("max_ahead = 1")
    file = write_config(f'cloud_url = "{URL}"', tmp_path / "other.toml")
    if how == "environment":
        os.environ["PIPESD_CONFIG_FILE"] = str(file)
    settings = load_settings({"config_file": file} if how == "flag" else {})
    assert (settings.cloud_url, settings.max_ahead) == (URL, 16)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://gpu:8000/", "http://gpu:8000"),
        ("https://gpu.example/v1/", "https://gpu.example"),
        ("http://proxy/team-a/v1", "http://proxy/team-a"),
        (" http://[::1]:8000 ", "http://[::1]:8000"),
    ],
)
def test_server_url_is_normalised(given: str, kept: str) -> None:
    """An OpenAI base URL works as well as the bare address."""
    assert load_settings({"cloud_url": given}).cloud_url == kept


@pytest.mark.parametrize(
    "url", ["gpu:8000", "ftp://gpu", "http://", "http://gpu:99999", "http://me:pw@gpu", "http://g?a"]
)
def test_server_url_that_is_none(url: str) -> None:
    """What is no server address is refused, and the flag is named."""
    with pytest.raises(ConfigError, match=r"^cloud_url \(from --cloud\): "):
        load_settings({"cloud_url": url})


def test_collector_of_traces() -> None:
    """A URL without a slash at its end, or a refusal that names the flag."""
    given = {"cloud_url": URL, "otel_endpoint": " http://collector:4318/ "}
    assert load_settings(given).otel_endpoint == "http://collector:4318"
    with pytest.raises(ConfigError, match=r"^otel_endpoint \(from --otel-endpoint\): not a URL"):
        load_settings(given | {"otel_endpoint": "collector:4318"})


def test_missing_server_says_all_ways_to_name_it() -> None:
    """A required setting that nobody gave: flag, variable and file are named."""
    with pytest.raises(ConfigError) as caught:
        load_settings({})
    assert str(caught.value) == (
        f"cloud_url is not set: pass --cloud, set PIPESD_CLOUD_URL, or write it into {default_config_file()}."
    )


def test_each_problem_names_setting_and_source() -> None:
    """Several mistakes at once: one line each, with where the value came from."""
    file = write_config('cloud_url = "http://gpu"\nmode = "fast"')
    os.environ["PIPESD_MAX_AHEAD"] = "many"
    with pytest.raises(ConfigError) as caught:
        load_settings({"listen_port": 70_000})
    lines = sorted(str(caught.value).splitlines())
    assert [line.partition(":")[0] for line in lines] == [
        "listen_port (from --port)",
        "max_ahead (from PIPESD_MAX_AHEAD)",
        f"mode (from {file})",
    ]


def test_unknown_key_in_the_file_is_refused() -> None:
    """A misspelt key is an error that lists the known ones, not silence."""
    file = write_config(f'cloud_url = "{URL}"\nmax_ahaed = 3')
    with pytest.raises(
        ConfigError, match=rf"^Unknown setting 'max_ahaed' in {file}; known settings: .*max_ahead"
    ):
        load_settings({})


@pytest.mark.parametrize(("text", "reason"), [("a = ", "is not valid TOML"), ("\x00", "is not valid TOML")])
def test_broken_file(text: str, reason: str) -> None:
    """A file that is no TOML is named with the reason."""
    file = write_config(text)
    with pytest.raises(ConfigError, match=f"{file} {reason}"):
        load_settings({"cloud_url": URL})


def test_named_file_must_exist(tmp_path: Path) -> None:
    """A settings file that was asked for and is not there is an error."""
    with pytest.raises(ConfigError, match=r"missing\.toml does not exist"):
        load_settings({"cloud_url": URL, "config_file": tmp_path / "missing.toml"})


@pytest.mark.parametrize("name", ["sequence_threshold", "token_threshold"])
@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_thresholds_are_open_intervals(name: str, value: float) -> None:
    """The trigger's thresholds lie strictly between 0 and 1."""
    with pytest.raises(ConfigError, match=name):
        load_settings({"cloud_url": URL, name: value})


def test_keys_are_not_shown() -> None:
    """Neither repr nor error messages give API keys away."""
    settings = load_settings({"cloud_url": URL, "api_key": "s3cret", "gateway_api_key": "s3cret"})
    assert "s3cret" not in repr(settings)
    with pytest.raises(ConfigError) as caught:
        load_settings({"cloud_url": "nowhere", "api_key": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_settings_are_frozen() -> None:
    """Nobody changes settings after they were parsed."""
    settings: EdgeSettings = load_settings({"cloud_url": URL})
    with pytest.raises(ValidationError):
        settings.max_ahead = 1  # type: ignore[misc]


def test_empty_variables_count_as_unset() -> None:
    """`PIPESD_API_KEY=` in a service file means no key."""
    os.environ["PIPESD_API_KEY"] = ""
    assert load_settings({"cloud_url": URL}).api_key is None


@pytest.mark.parametrize("name", ["api_key", "gateway_api_key"])
def test_keys_from_files_are_cleaned(name: str) -> None:
    """The line break at the end of a file is no part of the key; one inside is refused without showing it."""
    settings = load_settings({"cloud_url": URL, name: " sk-secret\r\n"})
    assert getattr(settings, name).get_secret_value() == "sk-secret"
    for bad in ("sk-secret\nsk-other", "sk-sec\x00ret", " \n"):
        with pytest.raises(ConfigError, match="one line of printable characters") as caught:
            load_settings({"cloud_url": URL, name: bad})
        assert "sk-" not in str(caught.value)


def test_systemds_credentials(tmp_path: Path) -> None:
    """A file in the folder of credentials is a setting: below the environment, above the TOML file."""
    write_config(f'cloud_url = "{URL}"\napi_key = "from-file"\ngateway_api_key = "from-file"')
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "pipesd_api_key").write_text("from-credential\n")
    (folder / "another-services").write_text("?")
    os.environ["CREDENTIALS_DIRECTORY"] = str(folder)
    settings, origins = load_settings({}), setting_origins({})
    assert settings.cloud_key == "from-credential"
    assert (origins["api_key"], origins["gateway_api_key"]) == ("credential", "file")
    os.environ["PIPESD_API_KEY"] = "from-environment"
    assert load_settings({}).cloud_key == "from-environment"
    del os.environ["PIPESD_API_KEY"]
    (folder / "pipesd_api_key").write_text("two\nlines")
    with pytest.raises(ConfigError, match="the credential pipesd_api_key"):
        load_settings({})
    os.environ["CREDENTIALS_DIRECTORY"] = str(tmp_path / "no-such-folder")
    assert load_settings({}).cloud_key == "from-file"
