"""Bayesian optimisation with BoTorch: a Gaussian process of the cost, and noisy expected improvement on it.

PipeSD tunes with plain expected improvement; trials in live traffic are noisy, hence the noisy kind
(Letham et al. 2019) in its numerically stable form (Ament et al., "Unexpected improvements to expected
improvement for Bayesian optimization", 2023).

Importing this module takes seconds and holds up all other threads, fits do so for milliseconds: the edge
agent runs it in a process of its own, see `gp_process`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.analytic import PosteriorMean
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models.gp_regression import SingleTaskGP
from botorch.models.transforms.outcome import Standardize
from botorch.optim.optimize import optimize_acqf
from botorch.sampling.normal import SobolQMCNormalSampler
from gpytorch.mlls import ExactMarginalLogLikelihood

from edge_agent.control.tuning.search import Evaluation, Point, Suggestion

__all__ = ["GpProposer", "GpSettings", "use_one_thread"]


def use_one_thread() -> None:
    """Of the whole process's torch: such small matrices gain nothing from more."""
    torch.set_num_threads(1)


@dataclass(frozen=True, slots=True)
class GpSettings:
    """What a suggestion may cost and how measurements are taken."""

    num_fit_steps: int = 25
    """L-BFGS steps on the hyperparameters; these are many more than a dozen points deserve."""
    num_candidates: int = 512
    """Points at which the acquisition function is evaluated before the best one is improved."""
    num_ascent_steps: int = 5
    """L-BFGS steps from there."""
    num_samples: int = 64
    """Quasi-Monte-Carlo samples of the acquisition function."""
    max_cost_ratio: float = 3.0
    """Costs are cut at so many times the least: how bad the bad ones are would drown all else."""
    text_scatter: float = 0.05
    """Relative scatter between trials of the same point that no trial sees in itself: texts differ."""


class GpProposer:
    """A `Solver`. Seeds torch's global generator; raises what BoTorch raises if a fit fails."""

    def __init__(self, num_dimensions: int, seed: int, settings: GpSettings | None = None) -> None:
        self._bounds = torch.tensor([[0.0] * num_dimensions, [1.0] * num_dimensions], dtype=torch.float64)
        self._seed = seed
        self._settings = settings or GpSettings()

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        """Fit to `evaluations` (at least two) and look where to go on."""
        torch.manual_seed(self._seed + len(evaluations))
        points = torch.tensor([e.point for e in evaluations], dtype=torch.float64)
        model = self._fit(points, evaluations)
        posterior = model.posterior(points)
        expected = posterior.mean.detach().squeeze(-1)
        deviation = posterior.variance.detach().squeeze(-1).sqrt()
        gain = qLogNoisyExpectedImprovement(
            model,
            points,
            sampler=SobolQMCNormalSampler(torch.Size([self._settings.num_samples]), seed=self._seed),
        )
        return Suggestion(
            point=self._ascend(gain, None),
            best=self._ascend(PosteriorMean(model), points[expected.argmax()]),
            estimates=tuple(torch.exp(deviation - expected).tolist()),
        )

    def _fit(self, points: torch.Tensor, evaluations: Sequence[Evaluation]) -> SingleTaskGP:
        """A model of -log cost: `points` is `[n, dimensions]`."""
        cap_ms = self._settings.max_cost_ratio * min(e.cost_ms for e in evaluations)
        utilities = [-math.log(min(e.cost_ms, cap_ms)) for e in evaluations]
        model = SingleTaskGP(
            points,
            torch.tensor(utilities, dtype=torch.float64).unsqueeze(-1),
            train_Yvar=torch.tensor(self._variances(evaluations), dtype=torch.float64).unsqueeze(-1),
            outcome_transform=Standardize(m=1),
        )
        options = {"maxiter": self._settings.num_fit_steps}
        likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
        fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": options})
        return model

    def _variances(self, evaluations: Sequence[Evaluation]) -> list[float]:
        """Of the logarithm of each cost. The scatter per token is pooled: one trial tells little of it."""
        per_token = statistics.median(e.relative_error**2 * e.num_tokens for e in evaluations)
        return [per_token / e.num_tokens + self._settings.text_scatter**2 for e in evaluations]

    def _ascend(self, function: AcquisitionFunction, start: torch.Tensor | None) -> Point:
        """Where `function` is greatest: climbs from `start`, or from the best of many candidates."""
        best, _ = optimize_acqf(
            function,
            self._bounds,
            q=1,
            num_restarts=1,
            raw_samples=self._settings.num_candidates,
            batch_initial_conditions=None if start is None else start.view(1, 1, -1),
            options={"maxiter": self._settings.num_ascent_steps},
        )
        return tuple(best[0].tolist())
