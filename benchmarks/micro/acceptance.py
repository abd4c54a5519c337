"""How often coupled drafts are accepted, beside the most that any method could reach.

Target is the embedded model, draft the same without three of its layers, both in float32. The target
continues HumanEval prompts by sampling; at each generated position both models' distributions p and q are
compared:

- coupled: both pick with the same noise, as server and edge do; the share of equal picks;
- greedy: the draft's most likely token, accepted with probability p;
- most: 1 - TV(p, q), what whole distributions on the wire would reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.prompts import HUMANEVAL, in_order, load_prompts
from edge_agent.api import Sampling
from edge_agent.sampling import GreedyPicker, SampledPicker
from edge_agent.sampling.restriction import least_kept

__all__ = ["Acceptance", "acceptance_lines", "compare", "probabilities"]

_LEFT_OUT: Final = (3, 4, 5)
"""Layers that the draft has to do without."""
_ROWS_A_PROMPT: Final = 2
_CELLS: Final = ((1.0, 1.0), (0.7, 1.0), (1.0, 0.9), (0.7, 0.9))

Logits = NDArray[np.float32]


class Acceptance(NamedTuple):
    """Means over positions."""

    coupled: float
    greedy: float
    most: float


def acceptance_lines(num_positions: int, num_tokens: int, seed: int) -> Iterator[str]:
    """One line of figures for each temperature and top-p."""
    pairs = list(_collected(num_positions, num_tokens))
    for temperature, top_p in _CELLS:
        found = compare(pairs, Sampling(1, temperature, top_p, seed=seed))
        yield (
            f"T={temperature:g} top_p={top_p:g}: coupled {found.coupled:.3f}, greedy {found.greedy:.3f}, "
            f"most {found.most:.3f}, coupled/most {found.coupled / found.most:.3f} ({len(pairs)} positions)"
        )


def compare(pairs: Sequence[tuple[Logits, Logits]], settings: Sampling) -> Acceptance:
    """Acceptance over pairs of target's and draft's logits `[num_tokens]`, one for each position."""
    target, draft, likeliest = SampledPicker(settings, 0), SampledPicker(settings, 0), GreedyPicker()
    found = []
    for position, (p_logits, q_logits) in enumerate(pairs):
        before = range(position)
        picks = target.pick(p_logits, before), draft.pick(q_logits, before)
        p, q = probabilities(p_logits, settings), probabilities(q_logits, settings)
        greedy = p[likeliest.pick(q_logits, before).token_id]
        most = 1.0 - 0.5 * float(np.abs(p - q).sum())
        found.append((picks[0].token_id == picks[1].token_id, greedy, most))
    return Acceptance(*np.mean(found, axis=0).tolist())


def probabilities(logits: Logits, settings: Sampling) -> NDArray[np.float64]:
    """The distribution that `settings` (temperature, min-p, top-k, top-p) make of `logits`."""
    scores = logits * np.float32(1.0 / settings.temperature)
    least = least_kept(scores, min_p=settings.min_p, top_k=settings.top_k, top_p=settings.top_p)
    weights = np.where(scores >= least, np.exp(scores.astype(np.float64) - float(scores.max())), 0.0)
    distribution: NDArray[np.float64] = weights / weights.sum()
    return distribution


def _collected(num_positions: int, num_tokens: int) -> Iterator[tuple[Logits, Logits]]:
    """Logits of both models after each of `num_tokens` sampled tokens a text, `num_positions` in all."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    from pipesd_vllm.launch import ensure_embedded_target

    folder = ensure_embedded_target()
    torch.manual_seed(0)
    target, draft = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2)
    )
    kept = [layer for i, layer in enumerate(draft.model.layers) if i not in _LEFT_OUT]
    draft.model.layers = torch.nn.ModuleList(kept)
    draft.config.num_hidden_layers = len(kept)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    num_prompts = -(-num_positions // (_ROWS_A_PROMPT * num_tokens))
    found = 0
    with torch.inference_mode():
        for prompt in in_order(load_prompts(HUMANEVAL), num_prompts, spread=True):
            prompt_ids = tokenizer.encode(prompt.text).ids
            for row in _continued(target, prompt_ids, num_tokens):
                logits = [model(row[None, :-1], use_cache=False).logits[0] for model in (target, draft)]
                of_target, of_draft = (some[len(prompt_ids) - 1 :].float().numpy() for some in logits)
                for pair in zip(of_target, of_draft, strict=True):
                    if found == num_positions:
                        return
                    found += 1
                    yield pair


def _continued(target: Any, prompt_ids: Sequence[int], num_tokens: int) -> Any:
    import torch

    prompts = torch.tensor([list(prompt_ids)] * _ROWS_A_PROMPT)
    return target.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
    )
