"""`pipesd edge`: the edge agent and its gateway, for a server that runs elsewhere."""

from __future__ import annotations

import typer

from openai_gateway.cli import options

__all__ = ["edge"]


def edge(
    ctx: typer.Context,
    cloud_url: options.CloudUrl = None,
    replicas: options.Replicas = None,
    ca_file: options.CaFile = None,
    api_key: options.ApiKey = None,
    draft: options.Draft = None,
    lookup: options.Lookup = None,
    draft_from: options.DraftFrom = None,
    draft_threads: options.DraftThreads = None,
    prompt_threads: options.PromptThreads = None,
    gpu_layers: options.GpuLayers = None,
    flash_attention: options.FlashAttention = None,
    kv_type: options.KvType = None,
    draft_context: options.DraftContext = None,
    max_sequences: options.MaxSequences = None,
    mode: options.Mode = None,
    policy: options.Policy = None,
    fallback: options.Fallback = None,
    tune: options.Tune = None,
    pass_weight_ms: options.PassWeightMs = None,
    trace: options.Trace = None,
    patience_ms: options.PatienceMs = None,
    max_ahead: options.MaxAhead = None,
    max_window: options.MaxWindow = None,
    sequence_threshold: options.SequenceThreshold = None,
    token_threshold: options.TokenThreshold = None,
    connect_timeout_s: options.ConnectTimeoutS = None,
    listen_host: options.ListenHost = None,
    listen_port: options.ListenPort = None,
    gateway_api_key: options.GatewayApiKey = None,
    allowed_hosts: options.AllowedHosts = None,
    allow_origins: options.AllowOrigins = None,
    allow_keyless_network: options.AllowKeylessNetwork = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    otel_endpoint: options.OtelEndpoint = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Start the edge agent: an OpenAI API on this machine, verified by the vLLM server at --cloud.

    Each flag can also be set as PIPESD_... in the environment or in a TOML file. Where no draft model is
    installed and none is named, or its vocabulary is another one, drafts are only looked up in the text.
    """
    from edge_agent import EdgeAgent, load_settings
    from openai_gateway.cli.hosting import bind_gateway, run_gateway

    settings = load_settings(ctx.params)
    with bind_gateway(settings) as listener:
        run_gateway(settings, listener, EdgeAgent.start)
