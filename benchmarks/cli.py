"""Benchmarks on real engines: speed, exactness and the plugin's own cost."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from benchmarks.harness import options
from benchmarks.matrix import command as matrix_command
from benchmarks.simulation import commands as simulation
from benchmarks.testbed import commands as testbed
from openai_gateway.cli import options as edge_options

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmarks on real engines: speed, exactness and the plugin's own cost.",
)

app.command()(testbed.pairs)
app.command(context_settings=options.CONTEXT_SETTINGS, options_metavar=options.METAVAR)(testbed.run)
app.command()(testbed.report)
app.command()(simulation.simulate)
app.command(context_settings=options.CONTEXT_SETTINGS, options_metavar=options.METAVAR)(matrix_command.matrix)
app.command(context_settings=options.CONTEXT_SETTINGS, options_metavar=options.METAVAR)(gateway_load.gateway)

Tokens = Annotated[int, typer.Option("--tokens", min=1, help="Tokens to generate after each prompt.")]


@app.command(context_settings=options.CONTEXT_SETTINGS, options_metavar=options.METAVAR)
def quick(
    ctx: typer.Context,
    tokens: Tokens = 128,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="How many HumanEval prompts.")] = 3,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="How often each is measured.")] = 3,
    cloud: options.Cloud = None,
    api_key: edge_options.ApiKey = None,
    target: options.Target = None,
    dtype: options.Dtype = None,
    draft: edge_options.Draft = None,
    draft_threads: edge_options.DraftThreads = None,
    mode: edge_options.Mode = None,
    policy: edge_options.Policy = None,
    patience_ms: edge_options.PatienceMs = None,
    max_ahead: edge_options.MaxAhead = None,
    max_window: edge_options.MaxWindow = None,
    sequence_threshold: edge_options.SequenceThreshold = None,
    token_threshold: edge_options.TokenThreshold = None,
    trace: edge_options.Trace = None,
    rtt_ms: options.RttMs = 0.0,
    edge_gamma_ms: options.GammaMs = 0.0,
    config_file: edge_options.ConfigFile = None,
    json_file: options.JsonFile = None,
) -> None:
    """Measure PipeSD against plain streaming from the same server and against the draft model alone.

    All three continue the same prompts by the same number of tokens, one after the other, in one run.
    """
    from benchmarks.conditions import Conditions
    from benchmarks.quick_run import quick_run
    from benchmarks.harness.server import ServerChoice, running_server

    choice = ServerChoice(cloud, target, dtype, tuple(ctx.args))
    conditions = Conditions(rtt_s=rtt_ms / 1e3, gamma_s=edge_gamma_ms / 1e3)
    with running_server(choice, _edge_flags(ctx)) as server:
        asyncio.run(quick_run(server.settings, choice, conditions, tokens, prompts, repeats, json_file))


@app.command(context_settings=options.CONTEXT_SETTINGS, options_metavar=options.METAVAR)
def exact(
    ctx: typer.Context,
    prompts: options.Prompts = None,
    num: options.NumPrompts = 20,
    spread: Annotated[
        bool, typer.Option("--spread", help="Take them at even distances, not the first ones.")
    ] = False,
    tokens: Tokens = 128,
    stop_at_eos: Annotated[
        bool, typer.Option("--stop-at-eos", help="Let an answer end where the model ends it.")
    ] = False,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=2.0)] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0)] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="0: all tokens.")] = 0,
    presence_penalty: Annotated[float, typer.Option("--presence-penalty", min=-2.0, max=2.0)] = 0.0,
    frequency_penalty: Annotated[float, typer.Option("--frequency-penalty", min=-2.0, max=2.0)] = 0.0,
    repetition_penalty: Annotated[float, typer.Option("--repetition-penalty", min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="For temperatures above 0.")] = 0,
    near_tie: Annotated[
        float | None,
        typer.Option(
            "--near-tie",
            min=0.0,
            help="Nats below which two tokens count as a near-tie (float32: 0.0005, else 0.25).",
            show_default=False,
        ),
    ] = None,
    cloud: options.Cloud = None,
    api_key: edge_options.ApiKey = None,
    target: options.Target = None,
    dtype: options.Dtype = None,
    draft: edge_options.Draft = None,
    draft_threads: edge_options.DraftThreads = None,
    mode: edge_options.Mode = None,
    policy: edge_options.Policy = None,
    patience_ms: edge_options.PatienceMs = None,
    max_ahead: edge_options.MaxAhead = None,
    max_window: edge_options.MaxWindow = None,
    sequence_threshold: edge_options.SequenceThreshold = None,
    token_threshold: edge_options.TokenThreshold = None,
    config_file: edge_options.ConfigFile = None,
    json_file: options.JsonFile = None,
) -> None:
    """Compare the gateway's output with the same server's plain /v1/completions, token for token.

    At a temperature above 0 both draw with the noise of the same seed, so the texts are to be equal, too.
    Exits 1 if any differs; every difference is shown with how close the two tokens were.
    """
    from benchmarks.exact_run import ExactPlan, exact_run
    from benchmarks.harness.server import ServerChoice, running_server
    from edge_agent.generation import SamplingSettings

    sampling = SamplingSettings(
        tokens,
        temperature,
        top_p,
        seed=seed if temperature else None,
        ignore_eos=not stop_at_eos,
        top_k=top_k,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=repetition_penalty,
    )
    plan = ExactPlan.load(prompts, num, spread=spread, sampling=sampling, near_tie_nats=near_tie, dtype=dtype)
    choice = ServerChoice(cloud, target, dtype, tuple(ctx.args))
    with running_server(choice, _edge_flags(ctx)) as server:
        identical = asyncio.run(exact_run(server.settings, plan, json_file))
    if not identical:
        raise typer.Exit(1)


@app.command(context_settings=options.CONTEXT_SETTINGS, options_metavar=options.METAVAR)
def overhead(
    ctx: typer.Context,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Verify rounds of a repeat.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="How often all is measured.")] = 3,
    cloud: options.Cloud = None,
    api_key: edge_options.ApiKey = None,
    target: options.Target = None,
    dtype: options.Dtype = None,
    config_file: edge_options.ConfigFile = None,
    json_file: options.JsonFile = None,
) -> None:
    """Measure where the time of a verify round goes, beside plain vLLM, and what idle sessions cost."""
    from benchmarks.overhead_run import overhead_run
    from benchmarks.harness.server import ServerChoice, running_server

    choice = ServerChoice(cloud, target, dtype, tuple(ctx.args))
    with running_server(choice, _edge_flags(ctx)) as server:
        asyncio.run(overhead_run(server, rounds, repeats, json_file))


@app.command(context_settings=options.CONTEXT_SETTINGS, options_metavar=options.METAVAR)
def tune(
    ctx: typer.Context,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How often all is repeated.")] = 5,
    trials: Annotated[int, typer.Option("--trials", min=8, help="Trials of each search.")] = 16,
    trial_tokens: Annotated[int, typer.Option("--trial-tokens", min=8, help="Tokens of a trial.")] = 64,
    tokens: Tokens = 96,
    rtt_ms: options.RttMs = 30.0,
    edge_gamma_ms: options.GammaMs = 0.0,
    cloud: options.Cloud = None,
    api_key: edge_options.ApiKey = None,
    target: options.Target = None,
    dtype: options.Dtype = None,
    draft: edge_options.Draft = None,
    draft_threads: edge_options.DraftThreads = None,
    mode: edge_options.Mode = None,
    max_window: edge_options.MaxWindow = None,
    config_file: edge_options.ConfigFile = None,
    json_file: options.JsonFile = None,
) -> None:
    """Compare tuned parameters with the paper's fixed ones, a grid and random search (about 20 minutes).

    Each search has the same number of trials in live traffic; what they found is compared on other prompts.
    """
    from benchmarks.conditions import Conditions
    from benchmarks.harness.server import ServerChoice, running_server
    from benchmarks.tune_run import TuneOptions, tune_run

    choice = ServerChoice(cloud, target, dtype, tuple(ctx.args))
    conditions = Conditions(rtt_s=rtt_ms / 1e3, gamma_s=edge_gamma_ms / 1e3)
    how = TuneOptions(seeds, trials, trial_tokens, tokens)
    with running_server(choice, _edge_flags(ctx)) as server:
        asyncio.run(tune_run(server.settings, conditions, how, json_file))


def _edge_flags(ctx: typer.Context) -> dict[str, Any]:
    """The flags that are settings of the edge agent, by the settings' names."""
    from edge_agent.settings import EdgeSettings

    return {name: value for name, value in ctx.params.items() if name in EdgeSettings.model_fields}
