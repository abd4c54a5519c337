"""What things cost in the model, given or fitted to recorded traces of the pipeline. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from edge_agent.control.estimators import fit_line
from edge_agent.tracing import Committed, Drafted, Sent, SessionStarted, TraceEvent

__all__ = ["Costs", "fitted_costs"]


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds. A step over n sessions with t tokens in all takes `step_s + token_s * (t - 1)`, whatever n."""

    gamma_s: float
    """A draft token."""
    step_s: float
    """A target pass over one token."""
    token_s: float
    """Each further token in the same pass, of the same session or another."""
    front_s: float = 0.0
    """Between the edge and the engine beyond the link, both ways together."""
    prefill_s: float = 0.0
    """What the first pass takes longer than others."""
    max_seqs: int = 256

    def pass_s(self, num_tokens: int) -> float:
        """A step over `num_tokens` in all."""
        return self.step_s + self.token_s * (num_tokens - 1)


def fitted_costs(sessions: Iterable[Sequence[TraceEvent]], rtt_s: float) -> Costs:
    """Fit to traces of any policies on the thin wire, over a link of `rtt_s`.

    `front_s` comes from `vanilla`, which has one request under way and nothing else. Raises `ValueError` if
    the traces hold none of its rounds.
    """
    gammas: list[float] = []
    passes: list[tuple[int, float]] = []
    firsts: list[float] = []
    fronts: list[float] = []
    for events in sessions:
        commits = [event for event in events if isinstance(event, Committed)]
        gammas += [event.t_end - event.t_start for event in events if isinstance(event, Drafted)]
        passes += [(c.num_verified, c.step_ms / 1e3) for c in commits[1:] if c.passes == 1]
        firsts += [c.step_ms / 1e3 for c in commits[:1]]
        if any(isinstance(event, SessionStarted) and event.policy == "vanilla" for event in events):
            fronts += _fronts(events, rtt_s)
    if not fronts or not passes:
        raise ValueError("no verify rounds of vanilla in the traces")
    line = fit_line(passes)
    token_s = 0.0 if line is None else line.slope_s
    step_s = max(0.0, median(elapsed_s - token_s * num for num, elapsed_s in passes))
    prefill_s = max(0.0, median(firsts) - step_s)
    return Costs(fmean(gammas), step_s, token_s, max(0.0, median(fronts)), prefill_s)


def _fronts(events: Sequence[TraceEvent], rtt_s: float) -> Iterator[float]:
    """What each round took beyond link, queue and step."""
    sent_s: float | None = None
    for event in events:
        if isinstance(event, Sent) and event.verify:
            sent_s = event.t
        elif isinstance(event, Committed) and event.num_verified and sent_s is not None:
            yield event.t - sent_s - (event.step_ms + event.queue_ms) / 1e3 - rtt_s
            sent_s = None
