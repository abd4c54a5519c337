"""Flags shared by commands. Parameters are called like the settings that they set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EDGE = "Edge agent"
_LISTEN = "Gateway"


def _flag(*names: str, text: str, panel: str = _EDGE, metavar: str | None = None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        *names, help=text, rich_help_panel=panel, metavar=metavar, show_default=False
    )
    return option


Draft = Annotated[
    str | None,
    _flag(
        "--draft",
        text="Draft model: embedded (default), a GGUF file, hf:repo/file, none.",
        metavar="MODEL",
    ),
]
Lookup = Annotated[
    bool | None,
    _flag("--lookup/--no-lookup", text="Look drafts up in prompt and answer, too (default: yes)."),
]
DraftFrom = Annotated[
    list[str] | None,
    _flag(
        "--draft-from",
        text="Look drafts up in this file or folder, too; 'history': in your earlier answers, which are then "
        "kept on this machine. May be repeated.",
        metavar="PATH",
    ),
]
DraftThreads = Annotated[int | None, _flag("--draft-threads", text="CPU threads of the draft model.")]
PromptThreads = Annotated[
    int | None,
    _flag("--prompt-threads", text="CPU threads while it reads a prompt (default: as --draft-threads)."),
]
GpuLayers = Annotated[
    int | None,
    _flag("--gpu-layers", text="Layers of the draft model on a GPU, -1 for all (default: all, if they fit)."),
]
FlashAttention = Annotated[
    bool | None,
    _flag("--flash-attention/--no-flash-attention", text="Of the draft model (default: llama.cpp decides)."),
]
KvType = Annotated[
    str | None, _flag("--kv-type", text="Of the draft model's KV cache: f16 (default), q8_0, q4_0.")
]
DraftContext = Annotated[
    int | None,
    _flag("--draft-context", text="Tokens a conversation can hold in the draft model (default 4096)."),
]
MaxSequences = Annotated[
    int | None, _flag("--max-sequences", text="Conversations that draft at the same time (default 4).")
]
Mode = Annotated[
    str | None,
    _flag(
        "--mode",
        text="What the server does without drafts (default auto: what costs no time).",
        metavar="auto|latency|balanced|offload",
    ),
]
Policy = Annotated[
    str | None,
    _flag(
        "--policy",
        text="When to upload and verify drafts (default adaptive).",
        metavar="adaptive|pipesd|edgellm|hsl|vanilla",
    ),
]
Fallback = Annotated[
    str | None,
    _flag(
        "--fallback",
        text="While the server is out of reach: the draft answers, an error, or wait (default local).",
        metavar="local|error|wait",
    ),
]
Tune = Annotated[
    bool | None,
    _flag("--tune/--no-tune", text="Tune thresholds and look-ahead in live traffic (default yes)."),
]
PassWeightMs = Annotated[
    float | None,
    _flag("--pass-weight-ms", text="What a target pass is worth to the tuner, in ms of waiting (default 0)."),
]
Trace = Annotated[
    Path | None,
    _flag("--trace", text="Write the pipeline's events to FILE, for 'pipesd trace'.", metavar="FILE"),
]
PatienceMs = Annotated[
    int | None,
    _flag("--patience-ms", text="How long the server waits for drafts in mode balanced (default 500)."),
]
MaxAhead = Annotated[
    int | None, _flag("--max-ahead", text="Most draft tokens ahead of the committed (default 16).")
]
MaxWindow = Annotated[
    int | None, _flag("--max-window", text="Most draft tokens between two verifications (default 8).")
]
SequenceThreshold = Annotated[
    float | None, _flag("--sequence-threshold", text="R1 of the verification trigger, in (0, 1).")
]
TokenThreshold = Annotated[
    float | None, _flag("--token-threshold", text="R2 of the verification trigger, in (0, 1).")
]
ConnectTimeoutS = Annotated[
    float | None, _flag("--connect-timeout-s", text="Give up reaching the server after this (default 10).")
]
ListenHost = Annotated[
    str | None,
    _flag("--host", text="Address to listen on (default 127.0.0.1).", panel=_LISTEN, metavar="ADDRESS"),
]
ListenPort = Annotated[int | None, _flag("--port", text="Port to listen on (default 8650).", panel=_LISTEN)]
GatewayApiKey = Annotated[
    str | None,
    _flag("--gateway-api-key", text="Key to ask of clients (better: PIPESD_GATEWAY_API_KEY).", panel=_LISTEN),
]
AllowedHosts = Annotated[
    list[str] | None,
    _flag(
        "--allowed-host",
        text="Another name under which a gateway without a key answers; repeatable.",
        panel=_LISTEN,
        metavar="NAME",
    ),
]
AllowOrigins = Annotated[
    list[str] | None,
    _flag(
        "--allow-origin",
        text="Web pages that may use the gateway ('*' needs a key); repeatable.",
        panel=_LISTEN,
        metavar="ORIGIN",
    ),
]
AllowKeylessNetwork = Annotated[
    bool | None,
    _flag(
        "--allow-keyless-network",
        text="Listen beyond this machine without a key: all who reach it may use it.",
        panel=_LISTEN,
    ),
]
LogLevel = Annotated[
    str | None,
    _flag(
        "--log-level",
        text="How much to log (default warning).",
        panel=_LISTEN,
        metavar="debug|info|warning|error",
    ),
]
LogFormat = Annotated[
    str | None,
    _flag(
        "--log-format",
        text="Log a line for each request, without its text (default none).",
        panel=_LISTEN,
        metavar="none|console|json",
    ),
]
OtelEndpoint = Annotated[
    str | None,
    _flag(
        "--otel-endpoint",
        text="Send OpenTelemetry traces to this OTLP/HTTP collector (needs pipesd[otel]).",
        panel=_LISTEN,
        metavar="URL",
    ),
]
ConfigFile = Annotated[
    Path | None, _flag("--config", text="TOML file with settings.", panel=_LISTEN, metavar="FILE")
]
CloudUrl = Annotated[
    str | None,
    _flag("--cloud", "--cloud-url", text="The vLLM server, such as http://gpu:8000.", metavar="URL"),
]
Replicas = Annotated[
    list[str] | None,
    _flag(
        "--replica",
        text="Another server of the same target: goes on when the first is lost. May be repeated.",
        metavar="URL",
    ),
]
CaFile = Annotated[
    Path | None, _flag("--ca-file", text="Certificates (PEM) to trust at the server, too.", metavar="FILE")
]
ApiKey = Annotated[
    str | None, _flag("--api-key", text="Key of the vLLM server (better: PIPESD_API_KEY).", metavar="KEY")
]
