"""Settings of the edge agent, parsed once: flags > environment > credentials > TOML file > defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from edge_agent.api import Fallback, SessionMode
from edge_agent.control import DEFAULT_POLICY, POLICY_NAMES
from edge_agent.errors import ConfigError
from pipesd_vllm.wire import MAX_DRAFT_TOKENS

__all__ = [
    "ENV_PREFIX",
    "EdgeSettings",
    "LogFormat",
    "LogLevel",
    "default_config_file",
    "flag_name",
    "load_settings",
    "setting_origins",
]

ENV_PREFIX: Final = "PIPESD_"
_CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
"""Set by systemd (`LoadCredential=`): a folder with files named as the variables, each with one value."""
LogFormat = Literal["none", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Threshold = Annotated[float, Field(gt=0.0, lt=1.0)]
Names = Annotated[tuple[str, ...], NoDecode]
"""Several flags, a list in the TOML file, or in the environment one line with commas."""

_OTHER_FLAGS: Final = {
    "cloud_url": "--cloud",
    "replicas": "--replica",
    "other_targets": "--other-target",
    "listen_host": "--host",
    "listen_port": "--port",
    "allowed_hosts": "--allowed-host",
    "allow_origins": "--allow-origin",
    "aliases": "--alias",
}
"""Settings whose flag has another name."""


def flag_name(setting: str) -> str:
    """The command line's flag for `setting`, such as `--max-ahead`."""
    return _OTHER_FLAGS.get(setting, f"--{setting.replace('_', '-')}")


def default_config_file() -> Path:
    """The TOML file that is read when none is named."""
    import platformdirs

    return platformdirs.user_config_path("pipesd") / "config.toml"


def default_draft_threads() -> int:
    """Leave a core to the rest of the machine; beyond four a small draft gains nothing."""
    return min(4, max(1, (os.cpu_count() or 2) - 1))


class EdgeSettings(BaseSettings):
    """Settings of one edge agent. Make them with `load_settings`, which explains mistakes.

    The command line's flags and their help, and docs/settings.md, are made of these fields and what is said
    below each.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    config_file: Path | None = None
    """TOML file to read instead of the default one."""
    cloud_url: str
    """Base URL of the vLLM server, such as http://gpu:8000."""
    replicas: Names = ()
    """Base URLs of more servers of the same target: when one is lost, another goes on with the answer."""
    other_targets: Names = ()
    """Base URLs of servers of other targets, with the same key: a request's model says which one answers."""
    ca_file: Path | None = None
    """Trust the certificates in this PEM file, too, when the server is reached by https."""
    api_key: SecretStr | None = None
    """Key of the vLLM server. Flags show in the list of processes: better set the variable."""
    draft: str = Field("embedded", min_length=1)
    """Draft model: `embedded`, a GGUF file, `hf:repo/file`, or `none`: drafts are only looked up."""
    lookup: bool = True
    """Look drafts up in the prompt and the answer itself, beside the model's."""
    draft_from: Names = ()
    """Look drafts up in these files and folders, too; `history`: in your earlier answers, which are then kept
    on this machine (docs/privacy.md)."""
    draft_threads: int = Field(default_factory=default_draft_threads, ge=1, le=256)
    """CPU threads of the draft model; unless given, a core fewer than there are, 4 at most."""
    prompt_threads: int | None = Field(None, ge=1, le=256)
    """CPU threads of the draft model while it reads a prompt; unless given, as many as otherwise."""
    gpu_layers: int | None = Field(None, ge=-1, le=1 << 16)
    """Layers of the draft model on a GPU, -1 for all; unless given, all, or none if they do not fit."""
    flash_attention: bool | None = None
    """Flash attention in the draft model; unless given, where llama.cpp finds it faster."""
    kv_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    """The draft model's KV cache: quantised, conversations take less memory."""
    draft_context: int = Field(4096, ge=256, le=1 << 20)
    """Tokens that one conversation can hold in the draft model."""
    max_sequences: int = Field(4, ge=1, le=256)
    """Conversations that draft at the same time."""
    mode: SessionMode = SessionMode.AUTO
    """What the server does while it has no drafts to verify; `auto`: what costs no time."""
    policy: str = DEFAULT_POLICY
    """When drafts are sent and verified, see docs/control.md."""
    tune: bool = True
    """Tune thresholds, look-ahead and patience in live traffic (BoTorch comes with `pipesd[edge]`)."""
    pass_weight_ms: float = Field(0.0, ge=0.0, le=10_000.0)
    """Lambda: what one target pass is worth, in ms of waiting, to the mode `auto` and to the tuner."""
    trace: Path | None = None
    """Write every event of the pipeline to this file, for `pipesd trace`."""
    patience_ms: int = Field(500, ge=1, le=60_000)
    """How long the server waits for drafts in the mode `balanced`."""
    max_ahead: int = Field(16, ge=1, le=MAX_DRAFT_TOKENS)
    """Most draft tokens beyond the committed ones."""
    max_window: int = Field(12, ge=1, le=MAX_DRAFT_TOKENS)
    """Most draft tokens between two requests to verify."""
    sequence_threshold: Threshold = 0.1
    """R1 of the NAV trigger: verify once the product of the drafts' probabilities is at most this."""
    token_threshold: Threshold = 0.25
    """R2 of the NAV trigger: verify once the newest draft's probability is at most this."""
    # Not `host` and `port`: Kubernetes sets PIPESD_PORT for a service that is named pipesd.
    listen_host: str = Field("127.0.0.1", min_length=1)
    """Address that the gateway listens on."""
    listen_port: int = Field(8650, ge=0, le=65_535)
    """Port that it listens on; 0 picks a free one."""
    gateway_api_key: SecretStr | None = None
    """Key that the gateway asks of its own clients; none: every program that reaches it may use it."""
    gateway_api_keys_file: Path | None = None
    """File with more of such keys, a `LABEL KEY` on each line; logs name the label."""
    max_requests_per_key: int | None = Field(None, ge=1)
    """Requests with one key that may be under way at a time; more get a 429."""
    max_connections: int = Field(1000, ge=1)
    """Connections to the gateway at a time; more get a 503."""
    tls_cert: Path | None = None
    """Serve https with this certificate chain, a PEM file."""
    tls_key: Path | None = None
    """The certificate's private key, if another file has it."""
    unix_socket: Path | None = None
    """Listen on this Unix socket instead of an address; who may open the file may use the gateway."""
    drain_s: float = Field(3.0, ge=0.0, le=3600.0)
    """When told to stop, let answers that are under way go on for so many seconds."""
    allowed_hosts: Names = ()
    """Names, beside those of loopback, under which a gateway without a key answers (docs/security.md)."""
    allow_origins: Names = ()
    """Web pages, beside those of loopback, that may use the gateway: origins, or `*` if it has a key."""
    allow_keyless_network: bool = False
    """Let a gateway without a key listen where other machines reach it."""
    aliases: Names = ()
    """Other names of the target, as NAME=MODEL or NAME alone: gpt-4o=default, fast=default:local."""
    any_model: bool = False
    """Answer requests for any other model, too, for clients whose names cannot be changed."""
    embeddings_url: str | None = None
    """Server of embeddings, without `/v1`; none: the vLLM server is asked."""
    embeddings_api_key: SecretStr | None = None
    """Key of that server."""
    connect_timeout_s: float = Field(10.0, gt=0.0, le=600.0)
    """Give up reaching the server after so many seconds."""
    fallback: Fallback = Fallback.LOCAL
    """While the server is out of reach the draft model answers, an error does, or requests wait."""
    log_level: LogLevel = "warning"
    """How much is logged."""
    log_format: LogFormat = "none"
    """Form of the gateway's line for each request, on stderr; none: no such lines."""
    otel_endpoint: str | None = None
    """OTLP/HTTP collector of traces, without `/v1/traces` (needs `pipesd[otel]`); none: `OTEL_*` decide."""

    @property
    def cloud_key(self) -> str | None:
        """`api_key` in plain text, for the header it travels in."""
        return self.api_key.get_secret_value() if self.api_key else None

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value not in POLICY_NAMES:
            raise ValueError(f"choose one of {', '.join(POLICY_NAMES)}")
        return value

    @field_validator("api_key", "gateway_api_key", "embeddings_api_key")
    @classmethod
    def _clean_key(cls, value: SecretStr | None) -> SecretStr | None:
        """A key travels in a header; one that comes out of a file often ends in a line break."""
        given = value.get_secret_value() if value else ""
        key = given.strip()
        if not key.isprintable() or (given and not key):
            raise ValueError("a key is one line of printable characters")
        return SecretStr(key) if value else value

    @field_validator(
        "aliases", "allowed_hosts", "allow_origins", "draft_from", "replicas", "other_targets", mode="before"
    )
    @classmethod
    def _names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [name.strip() for name in value.split(",") if name.strip()]

    @field_validator("otel_endpoint")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        if value is not None and not _names_a_server(urlsplit(value.strip())):
            raise ValueError("not a URL such as http://collector:4318")
        return value and value.strip().rstrip("/")

    @field_validator("replicas", "other_targets")
    @classmethod
    def _normalise_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._normalise_url(url) for url in value)

    @field_validator("embeddings_url")
    @classmethod
    def _optional_url(cls, value: str | None) -> str | None:
        return None if value is None else cls._normalise_url(value)

    @field_validator("cloud_url")
    @classmethod
    def _normalise_url(cls, value: str) -> str:
        url = urlsplit(value.strip())
        if not _names_a_server(url):
            raise ValueError("not a URL such as http://gpu-server:8000")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("give scheme, host and port alone; the key goes into api_key")
        path = url.path.rstrip("/").removesuffix("/v1").rstrip("/")  # people paste OpenAI base URLs
        return f"{url.scheme}://{url.netloc}{path}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then systemd's credentials, then the TOML file."""
        file = TomlConfigSettingsSource(settings_cls, _config_file(init_settings(), env_settings()))
        folder = _credentials_folder()
        secrets = (SecretsSettingsSource(settings_cls, folder),) if folder else ()
        return init_settings, env_settings, *secrets, file


def load_settings(flags: Mapping[str, Any]) -> EdgeSettings:
    """Settings from `flags` (None or an empty list: not given), environment and TOML file, in this order.

    `flags["config_file"]` names the TOML file; a named one must exist. Raises `ConfigError` with one
    line a problem that names the setting and where its value came from.
    """
    given = {name: value for name, value in flags.items() if _is_given(value)}
    file = _config_file(given, _environment())
    if file != default_config_file() and not file.is_file():
        raise ConfigError(f"The settings file {file} does not exist: create it or leave out --config.")
    try:
        return EdgeSettings(**given)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(e, given, file) for e in error.errors())) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file {file} is not valid TOML: {error}.") from error
    except OSError as error:
        raise ConfigError(f"The settings file {file} cannot be read: {error.strerror}.") from error


def setting_origins(flags: Mapping[str, Any]) -> dict[str, str]:
    """Where `load_settings(flags)` takes each setting from: "flag", "env", "credential", "file" or "default".

    A file that cannot be read counts as empty: `load_settings` says what is wrong with it.
    """
    given = {name for name, value in flags.items() if _is_given(value)}
    environment = _environment()
    try:
        in_file = tomllib.loads(_config_file(flags, environment).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        in_file = {}
    sources = (
        ("flag", given),
        ("env", set(environment)),
        ("credential", _credentials()),
        ("file", set(in_file)),
    )
    return {
        name: next((origin for origin, names in sources if name in names), "default")
        for name in EdgeSettings.model_fields
    }


def _is_given(value: object) -> bool:
    return value is not None and value != () and value != []


def _names_a_server(url: SplitResult) -> bool:
    try:
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number or too large
        return False


def _environment() -> dict[str, str]:
    """Settings found in the environment, by field name."""
    names = {name.lower(): value for name, value in os.environ.items() if value}
    found = {field: names.get(f"{ENV_PREFIX.lower()}{field}") for field in EdgeSettings.model_fields}
    return {field: value for field, value in found.items() if value is not None}


def _credentials_folder() -> Path | None:
    named = os.environ.get(_CREDENTIALS)
    return Path(named) if named and Path(named).is_dir() else None


def _credentials() -> set[str]:
    """Settings found among systemd's credentials."""
    folder = _credentials_folder()
    names = {file.name.lower() for file in folder.iterdir()} if folder else set()
    return {field for field in EdgeSettings.model_fields if f"{ENV_PREFIX}{field}".lower() in names}


def _config_file(*sources: Mapping[str, Any]) -> Path:
    named = [source["config_file"] for source in sources if source.get("config_file")]
    return Path(named[0]).expanduser() if named else default_config_file()


def _explain(error: ErrorDetails, flags: Mapping[str, Any], file: Path) -> str:
    name = ".".join(str(part) for part in error["loc"][:1])
    env_name = ENV_PREFIX + name.upper()
    flag = flag_name(name)
    if error["type"] == "missing":
        return f"{name} is not set: pass {flag}, set {env_name}, or write it into {file}."
    if error["type"] == "extra_forbidden":
        known = ", ".join(EdgeSettings.model_fields)
        return f"Unknown setting {name!r} in {file}; known settings: {known}."
    credential = f"the credential {env_name.lower()}" if name in _credentials() else str(file)
    source = flag if name in flags else env_name if name in _environment() else credential
    message = error["msg"].removeprefix("Value error, ")
    return f"{name} (from {source}): {message[:1].lower()}{message[1:]}."
