"""Statistics over samples and the order of measuring."""

import pytest

from benchmarks.figures import DraftFigures, Sample, Way, draft_figures, interleaved, summarise
from edge_agent.generation import GenerationStats


def test_summary_is_the_median_with_its_range() -> None:
    """One slow run moves the range, not the figure."""
    figures = summarise([Sample(20.0, 100.0), Sample(21.0, 300.0), Sample(90.0, 110.0)])
    assert (figures.tpt_ms, figures.ttft_ms, figures.tpt_range_ms) == (21.0, 110.0, (20.0, 90.0))
    assert figures.num_samples == 3
    assert figures.tokens_per_s == pytest.approx(1000 / 21)


def test_unknown_draft_figures_are_left_out_of_the_median() -> None:
    """A run without drafts says nothing about acceptance."""
    samples = [Sample(1.0, 1.0, DraftFigures(rate)) for rate in (0.5, None, 0.7)]
    assert summarise(samples).draft == DraftFigures(pytest.approx(0.6), None, None)


def test_draft_figures_count_draft_frames_only() -> None:
    """The prompt that goes up once is not a cost of drafting."""
    stats = GenerationStats(
        completion_tokens=10,
        target_passes=4,
        draft_tokens_sent=8,
        draft_tokens_verified=8,
        draft_tokens_accepted=6,
        uplink_draft_bytes=80,
        uplink_bytes=900,
    )
    assert draft_figures(stats) == DraftFigures(0.75, 0.4, 10.0)


def test_no_drafts_give_no_figure() -> None:
    """Nothing is divided by zero and nothing is made up."""
    assert draft_figures(GenerationStats()) == DraftFigures(None, None, None)


@pytest.mark.parametrize(("num_prompts", "repeats"), [(3, 3), (1, 3), (2, 1)])
def test_every_way_measures_every_prompt_as_often(num_prompts: int, repeats: int) -> None:
    """The comparison is complete."""
    order = list(interleaved(num_prompts, repeats))
    assert all(order.count((index, way)) == repeats for index in range(num_prompts) for way in Way)
    assert len(order) == num_prompts * repeats * len(Way)


@pytest.mark.parametrize("num_prompts", [1, 2, 3, 4])
def test_no_way_always_comes_first(num_prompts: int) -> None:
    """For each prompt every way leads once in as many repeats as there are ways."""
    order = list(interleaved(num_prompts, len(Way)))
    groups = [order[start : start + len(Way)] for start in range(0, len(order), len(Way))]
    for index in range(num_prompts):
        leading = [group[0][1] for group in groups if group[0][0] == index]
        assert sorted(leading) == sorted(Way)
