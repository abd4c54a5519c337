"""`pipesd bench pairs`: makes the models that scenarios name and says how often draft and target agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import platformdirs
import typer
from rich.console import Console

from benchmarks.harness.options import SpecBench
from benchmarks.harness.prompts import available, find_specbench, load_dataset, tokenised
from benchmarks.pairs.agreement import agreement_rate, greedy_text, trace_of
from benchmarks.pairs.catalog import PRUNED, Catalog, draft_description, target_description
from edge_agent.api import TokenizerBundle
from edge_agent.drafting.drafter import Drafter
from edge_agent.drafting.llama.drafter import LlamaDrafter
from edge_agent.drafting.llama.loading import LlamaSettings
from edge_agent.drafting.models import resolve_model
from openai_gateway.cli.console import live_status
from openai_gateway.local.text.tokenizer import TargetText

__all__ = ["loaded", "pairs", "pairs_folder", "target_text"]

_CONTEXT: Final = 2048


def pairs(
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens compared a prompt.")] = 64,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts of each data set.")] = 4,
    depth: Annotated[int, typer.Option("--depth", min=2, max=9, help="Depth factor of the target.")] = 2,
    specbench: SpecBench = None,
) -> None:
    """Make the drafts and the padded target that scenarios name, and measure how often they agree."""
    out = Console(highlight=False, soft_wrap=True)
    file = find_specbench(specbench)
    with live_status() as show:
        catalog = Catalog(pairs_folder(), show)
        target = f"depth-x{depth}"
        drafts = {name: catalog.draft(name) for name in PRUNED}
        folder = Path(catalog.target(target))
        out.print(f"{target}: {target_description(target)}\n  {folder}")
        show("Writing the target's texts")
        text = target_text(folder)
        full = loaded("embedded")  # the target's weights are this file's, dequantised
        texts = {}
        for name in available(None, file):
            ids = [asyncio.run(tokenised(p, text)).token_ids for p in load_dataset(name, file)[:prompts]]
            texts[name] = [(p, greedy_text(full, p, tokens)) for p in ids]
        full.close()
        for name, path in drafts.items():
            show(f"Comparing {name}")
            agreement = ", ".join(f"{_agreement(path, of):.2f} on {dataset}" for dataset, of in texts.items())
            out.print(f"{name}: {draft_description(name)}\n  {path}\n  greedy agreement {agreement}")


def pairs_folder() -> Path:
    """Where the models are kept."""
    return platformdirs.user_cache_path("pipesd") / "pairs"


def _agreement(path: str, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    draft = loaded(path)
    try:
        return agreement_rate([point for prompt, text in texts for point in trace_of(draft, prompt, text)])
    finally:
        draft.close()


def loaded(model: str) -> Drafter:
    """A draft model in this process, on one thread. Raises `ModelError`."""
    return LlamaDrafter.load(
        resolve_model(model), LlamaSettings(n_threads=1, n_ctx=_CONTEXT, max_sequences=1)
    )


def target_text(target: Path) -> TargetText:
    """The tokenizer and chat template of a Hugging Face folder that was made here."""
    config = json.loads((target / "tokenizer_config.json").read_text())
    special = {name: value for name, value in config.items() if name.endswith("_token")}
    tokenizer = (target / "tokenizer.json").read_text()
    return TargetText(TokenizerBundle(tokenizer, config.get("chat_template"), special, ()))
