"""The order of a run."""

from collections import Counter

from benchmarks.testbed.plan import interleaved, prompts_of_seed
from benchmarks.harness.rivals import Rival


def test_everybody_answers_everything_in_turn() -> None:
    """Each prompt is answered by all before the next comes, and the first place goes round."""
    rivals = [Rival(name) for name in "abc"]
    jobs = list(interleaved(range(2), {"humaneval": 2, "gsm8k": 1}, rivals))
    assert len(jobs) == 2 * 3 * 3
    groups = [jobs[i : i + 3] for i in range(0, len(jobs), 3)]
    assert all(
        len({(job.number, job.seed, job.dataset, job.prompt) for job in group}) == 1 for group in groups
    )
    assert all({job.rival for job in group} == set(rivals) for group in groups)
    assert Counter(group[0].rival.policy for group in groups) == {"a": 2, "b": 2, "c": 2}


def test_seeds_have_prompts_of_their_own() -> None:
    """No prompt is used by two seeds while there are enough, and the choice is always the same."""
    chosen = [prompts_of_seed(range(20), seed, 4) for seed in range(5)]
    assert sorted(prompt for of_seed in chosen for prompt in of_seed) == list(range(20))
    assert chosen[2] == prompts_of_seed(range(20), 2, 4)
    assert len(prompts_of_seed(range(2), 1, 3)) == 3
