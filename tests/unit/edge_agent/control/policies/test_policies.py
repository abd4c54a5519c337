"""The drafting policies: the paper's, its baselines', and ours."""

import random
from dataclasses import replace

import pytest

from edge_agent.control import (
    BatchScheduler,
    ChainView,
    CommitOutcome,
    Decision,
    EnvironmentSnapshot,
    LinkEstimate,
    Policy,
    PolicyParameters,
)
from edge_agent.control.policies.adaptive import break_even_confidence
from edge_agent.control.policies.literature import EdgeLlmPolicy
from edge_agent.control.policies.registry import (
    DEFAULT_POLICY,
    POLICY_NAMES,
    literature_parameters,
    make_policy,
)
from edge_agent.errors import ConfigError

KEEP, UPLOAD, VERIFY = Decision.KEEP, Decision.UPLOAD, Decision.VERIFY
PARAMETERS = PolicyParameters(
    sequence_threshold=0.5, token_threshold=0.3, max_ahead=16, patience_ms=500, max_window=8
)
SLOW_LINK = LinkEstimate(alpha_s=0.002, beta_s_per_token=0.009, gamma_s=0.010)
STREAM = LinkEstimate(alpha_s=0.0001, beta_s_per_token=2e-6, gamma_s=0.007)
BASELINES = [name for name in POLICY_NAMES if name != "adaptive"]
IDLE, DRAFTING_ON = ["vanilla", "hsl"], ["edgellm", "pipesd", "adaptive"]


def scheduler(link: LinkEstimate = STREAM, window: int = 20) -> BatchScheduler:
    return BatchScheduler(lambda: link, window)


def policy(name: str, link: LinkEstimate = STREAM, window: int = 20, **changes: float) -> Policy:
    return make_policy(name, replace(PARAMETERS, **changes), scheduler(link, window))  # type: ignore[arg-type]


class Rig:
    """A session without I/O: the chain's counters, kept as the session loop keeps them."""

    def __init__(self, drafting: Policy) -> None:
        self.policy = drafting
        self.num_drafted = 0
        self.num_sent = 0
        self.num_released = 0
        """Drafts beyond the frontier that the server may verify."""

    @property
    def view(self) -> ChainView:
        return ChainView(self.num_drafted, self.num_drafted - self.num_sent, self.num_released > 0)

    def draft(self, *probabilities: float) -> list[Decision]:
        """Draft one token for each probability; the decisions."""
        decisions = []
        for probability in probabilities:
            self.num_drafted += 1
            decision = self.policy.on_draft(probability, self.view)
            self._apply(decision)
            decisions.append(decision)
        return decisions

    def answer(self, num_accepted: int, *, bonus_guessed: bool, resume: bool = True) -> Decision:
        """The server verifies everything released; `resume`: the loop asks `after_commit`."""
        num_verified = self.num_released
        kept = num_accepted == num_verified and bonus_guessed
        rolled_back = num_accepted < num_verified or (self.num_drafted > num_verified and not kept)
        if rolled_back:
            self.num_drafted = self.num_sent = 0
        else:
            self.num_drafted = max(0, self.num_drafted - num_verified - 1)
            self.num_sent = max(0, self.num_sent - num_verified - 1)
        self.num_released = 0
        self.policy.on_commit(CommitOutcome((), num_verified, num_accepted, rolled_back))
        decision = self.policy.after_commit(self.view) if resume else KEEP
        self._apply(decision)
        return decision

    def room(self) -> int:
        return self.policy.ahead(self.view) - self.num_drafted

    def _apply(self, decision: Decision) -> None:
        if decision is not KEEP:
            assert self.num_sent < self.num_drafted, "a frame without drafts"
            self.num_sent = self.num_drafted
        if decision is VERIFY:
            self.num_released = self.num_drafted


# -- what the paper defines -------------------------------------------------------------------


def test_vanilla_verifies_every_fixed_number_of_drafts() -> None:
    """6 drafts for code, 4 for maths, whatever their probability, in one upload; the window's bound holds."""
    assert Rig(policy("vanilla")).draft(*[0.01] * 6) == [KEEP] * 5 + [VERIFY]
    maths = make_policy("vanilla", PARAMETERS, scheduler(), task="maths")
    assert Rig(maths).draft(*[0.99] * 4) == [KEEP] * 3 + [VERIFY]
    assert Rig(policy("vanilla", max_window=2)).draft(0.9, 0.9) == [KEEP, VERIFY]


def test_hsl_verifies_at_the_first_uncertain_token() -> None:
    """R2 alone: a product far below R1 does not matter."""
    assert Rig(policy("hsl")).draft(0.5, 0.5, 0.5, 0.3) == [KEEP, KEEP, KEEP, VERIFY]


def test_edgellm_verifies_when_the_product_has_fallen() -> None:
    """R1 alone: one improbable token does not matter unless the product falls, too."""
    assert Rig(policy("edgellm", sequence_threshold=0.1)).draft(0.2, 0.6, 0.8) == [KEEP, KEEP, VERIFY]


def test_edgellm_halves_r1_after_a_full_accept() -> None:
    """Then longer windows are drafted."""
    rig = Rig(policy("edgellm", sequence_threshold=0.8))
    assert rig.draft(0.7) == [VERIFY]
    rig.answer(1, bonus_guessed=True)
    assert isinstance(rig.policy, EdgeLlmPolicy)
    assert rig.policy.threshold == pytest.approx(0.4)
    assert rig.draft(0.7, 0.7, 0.7) == [KEEP, KEEP, VERIFY]


def test_edgellm_raises_r1_by_the_rejected_share() -> None:
    """R1 /= C^((n - accepted)/n), kept below 1; a commit that verified nothing changes nothing."""
    rig = Rig(policy("edgellm", sequence_threshold=0.1))
    drafting = rig.policy
    assert isinstance(drafting, EdgeLlmPolicy)
    assert rig.draft(0.5, 0.5, 0.2) == [KEEP, KEEP, VERIFY]
    drafting.on_commit(CommitOutcome())
    assert drafting.threshold == pytest.approx(0.1)
    rig.answer(1, bonus_guessed=False)
    assert drafting.threshold == pytest.approx(0.1 / 0.05 ** (2 / 3))
    for _ in range(20):
        rig.draft(0.1)
        rig.answer(0, bonus_guessed=False)
    assert 0.99 < drafting.threshold < 1.0
    for _ in range(40):
        rig.draft(1e-6)
        rig.answer(1, bonus_guessed=False)
    assert 0.0 < drafting.threshold < 0.01


def test_edgellm_starts_again_from_a_new_r1() -> None:
    """`retune` replaces the adapted threshold."""
    drafting = policy("edgellm", sequence_threshold=0.8)
    assert isinstance(drafting, EdgeLlmPolicy)
    drafting.on_commit(CommitOutcome(num_verified=1, num_accepted=1))
    drafting.retune(replace(PARAMETERS, sequence_threshold=0.6))
    assert drafting.threshold == pytest.approx(0.6)


def test_pipesd_fires_on_either_threshold() -> None:
    """C <= R1 or P <= R2, then C starts again at 1."""
    rig = Rig(policy("pipesd", window=20))
    assert rig.draft(0.9, 0.25) == [KEEP, VERIFY]
    rig.answer(2, bonus_guessed=True)
    assert rig.draft(0.75, 0.75, 0.75)[-1] is VERIFY


def test_pipesd_uploads_at_the_plans_boundaries_and_the_rest_at_the_trigger() -> None:
    """Batches carry no flag; drafts left over at the trigger leave at once, with it."""
    rig = Rig(policy("pipesd", SLOW_LINK, window=8))
    boundaries = scheduler(SLOW_LINK, 8).plan.boundaries
    assert len(boundaries) >= 3
    decisions = rig.draft(*[1.0] * 7)
    assert decisions == [UPLOAD if n in boundaries else KEEP for n in range(1, 8)]
    assert rig.draft(0.1) == [VERIFY]
    assert rig.view.num_unsent == 0


def test_pipesd_reports_draft_lengths_to_the_scheduler() -> None:
    """N becomes the mean draft length."""
    plans = scheduler()
    rig = Rig(make_policy("pipesd", PARAMETERS, plans))
    rig.draft(0.9, 0.9, 0.1)
    assert plans.window == 3


# -- waiting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IDLE)
def test_idle_policies_do_not_draft_while_waiting(name: str) -> None:
    """No room until the commit, then a whole window again."""
    rig = Rig(policy(name))
    rig.draft(*[0.9] * 5, 0.2)
    assert rig.view.awaiting_commit
    assert rig.room() == 0
    rig.answer(6, bonus_guessed=True)
    assert rig.room() >= 6


@pytest.mark.parametrize("name", IDLE)
def test_a_draft_under_way_at_the_trigger_is_not_lost(name: str) -> None:
    """One that comes in after the trigger is held back, and the next window still verifies."""
    rig = Rig(policy(name, max_window=4))
    rig.draft(0.9, 0.9, 0.9, 0.2)
    assert rig.draft(0.2, 0.2) == [KEEP, KEEP]
    rig.answer(4, bonus_guessed=True, resume=False)
    assert rig.view.num_unsent == 1
    decisions = rig.draft(*[0.9] * rig.room())
    assert decisions[-1] is VERIFY


@pytest.mark.parametrize("name", DRAFTING_ON)
def test_the_others_draft_on_to_the_bound(name: str) -> None:
    """While waiting there is room up to `max_ahead` and not beyond."""
    rig = Rig(policy(name))
    rig.draft(0.01)
    assert rig.room() == PARAMETERS.max_ahead - 1
    rig.draft(*[0.99] * (PARAMETERS.max_ahead - 1))
    assert rig.room() == 0


@pytest.mark.parametrize("name", ["edgellm", "pipesd"])
def test_the_papers_policies_verify_one_window_at_a_time(name: str) -> None:
    """A trigger in the continuation waits for the answer, then everything held back leaves at once."""
    rig = Rig(policy(name))
    assert rig.draft(0.1) == [VERIFY]
    assert rig.draft(0.9, 0.9, 0.1, 0.9) == [KEEP] * 4
    assert rig.answer(1, bonus_guessed=True) is VERIFY
    assert rig.num_released == 3


def test_pipesd_sends_a_continuation_that_holds_as_one_batch() -> None:
    """Nothing is due yet: it leaves without the flag."""
    rig = Rig(policy("pipesd"))
    rig.draft(0.1)
    rig.draft(0.9, 0.9, 0.9)
    assert rig.answer(1, bonus_guessed=True) is UPLOAD
    assert rig.view.num_unsent == 0


@pytest.mark.parametrize("name", DRAFTING_ON)
def test_a_wrong_continuation_leaves_no_trace(name: str) -> None:
    """After a rollback the window is empty: the old probabilities do not fire the trigger."""
    rig = Rig(policy(name))
    rig.draft(0.1)
    rig.draft(0.9, 0.8, 0.8)
    assert rig.answer(1, bonus_guessed=False) is KEEP
    assert rig.num_drafted == 0
    assert VERIFY not in rig.draft(0.9, 0.9)


@pytest.mark.parametrize("name", ["edgellm", "pipesd"])
def test_a_trigger_in_a_wrong_continuation_is_forgotten(name: str) -> None:
    """After the rollback there is room for a whole window, not only for the draft that would ask."""
    rig = Rig(policy(name))
    rig.draft(0.1)
    rig.draft(0.9, 0.1)
    rig.answer(1, bonus_guessed=False)
    assert rig.room() == PARAMETERS.max_ahead


@pytest.mark.parametrize("name", DRAFTING_ON)
def test_a_guess_at_the_bonus_token_belongs_to_no_window(name: str) -> None:
    """The pass under way checks it: it asks for nothing, however improbable. After the answer it counts."""
    rig = Rig(policy(name))
    assert rig.draft(0.1) == [VERIFY]
    assert rig.draft(0.01, 0.9) == [KEEP, KEEP]
    assert rig.answer(1, bonus_guessed=True) is not VERIFY
    assert rig.draft(0.9) != [VERIFY]
    rig = Rig(policy(name))
    rig.draft(0.1)
    rig.answer(1, bonus_guessed=True)
    assert rig.draft(0.01) == [VERIFY]


# -- ours -------------------------------------------------------------------------------------


def test_adaptive_asks_for_the_continuation_too() -> None:
    """The second trigger asks at once, while the first answer is still under way."""
    rig = Rig(policy("adaptive"))
    assert rig.draft(0.1) == [VERIFY]
    assert rig.draft(0.9, 0.9, 0.1) == [KEEP, KEEP, VERIFY]


def test_adaptive_asks_at_the_bound_for_what_it_has() -> None:
    """Where drafting must stop, the rest of the chain is released: the server need not come back for it."""
    rig = Rig(policy("adaptive", max_ahead=6))
    assert rig.draft(0.1, 0.9, 0.9, 0.9, 0.9) == [VERIFY, KEEP, KEEP, KEEP, KEEP]
    assert rig.draft(0.9) == [VERIFY]
    assert rig.room() == 0


def test_adaptive_sends_no_batches_where_they_gain_nothing() -> None:
    """Over a stream that takes 2 us a token everything leaves at the trigger."""
    assert scheduler(STREAM, 6).plan.boundaries == (5, 6)
    rig = Rig(policy("adaptive", STREAM, window=6))
    assert rig.draft(*[1.0] * 8) == [KEEP] * 7 + [VERIFY]


def test_adaptive_sends_batches_of_four_or_more_where_they_pay() -> None:
    """On a slow link the DP's boundaries count, but a frame before the trigger carries at least 4 drafts."""
    rig = Rig(policy("adaptive", SLOW_LINK, window=16, max_window=16))
    unsent = []
    for _ in range(15):
        before = rig.view.num_unsent + 1
        if rig.draft(1.0) == [UPLOAD]:
            unsent.append(before)
    assert unsent
    assert min(unsent) >= 4


def test_adaptive_feeds_a_server_that_does_not_wait() -> None:
    """In mode `latency` drafts leave four by four, without the flag."""
    rig = Rig(make_policy("adaptive", PARAMETERS, scheduler()))
    rig.policy.serve(eager=True)
    assert rig.draft(*[1.0] * 8) == [KEEP, KEEP, KEEP, UPLOAD, KEEP, KEEP, KEEP, VERIFY]


def test_adaptive_feeds_such_a_server_one_by_one_from_a_slow_draft() -> None:
    """Three drafts that wait for a fourth would miss the next pass."""
    slow = EnvironmentSnapshot(gamma_s=0.04)
    rig = Rig(make_policy("adaptive", PARAMETERS, scheduler(), costs=lambda: slow))
    rig.policy.serve(eager=True)
    assert rig.draft(1.0, 1.0) == [UPLOAD, UPLOAD]


@pytest.mark.parametrize(
    ("gamma_s", "tpt_s", "expected"),
    [(0.04, 0.08, 0.5), (0.15, 0.16, 0.7), (None, 0.08, 0.0), (0.04, None, 0.0), (0.04, 0.0, 0.0)],
)
def test_where_drafting_on_breaks_even(gamma_s: float | None, tpt_s: float | None, expected: float) -> None:
    """A draft's time over a token's, with a bound; nothing where one of them is not known."""
    assert break_even_confidence(EnvironmentSnapshot(gamma_s=gamma_s, tpt_s=tpt_s)) == expected


def test_adaptive_asks_earlier_where_drafting_is_dear() -> None:
    """R1 rises to the break-even point that the last commit's costs give, and falls back with it."""
    costs = {"gamma_s": 0.01, "tpt_s": 0.1}
    rig = Rig(make_policy("adaptive", PARAMETERS, scheduler(), costs=lambda: EnvironmentSnapshot(**costs)))
    assert rig.draft(0.9, 0.8) == [KEEP, KEEP]
    costs["gamma_s"] = 0.07
    rig.policy.on_commit(CommitOutcome(rejected=True))
    rig.num_drafted = rig.num_sent = 0
    assert rig.draft(0.9, 0.7) == [KEEP, VERIFY]
    rig.answer(0, bonus_guessed=False)
    costs["gamma_s"] = 0.01
    rig.policy.on_commit(CommitOutcome(rejected=True))
    assert rig.draft(0.9, 0.7) == [KEEP, KEEP]


# -- all --------------------------------------------------------------------------------------


def test_drafts_committed_unasked_leave_the_window() -> None:
    """A server that goes on by itself takes drafts off the chain's front: they no longer weigh on C."""
    rig = Rig(policy("pipesd"))
    rig.draft(0.6, 0.9)
    rig.num_drafted -= 1
    rig.policy.on_commit(CommitOutcome())
    assert VERIFY not in rig.draft(0.9, 0.9)
    assert rig.draft(0.6) == [VERIFY]


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_draft_that_is_always_certain_is_verified(name: str) -> None:
    """No threshold fires: `max_window` does, and `max_ahead` where it is the smaller."""
    assert Rig(policy(name, max_window=5)).draft(*[1.0] * 5)[-1] is VERIFY
    assert Rig(policy(name, max_ahead=3)).draft(*[1.0] * 3)[-1] is VERIFY
    assert Rig(policy(name, max_ahead=1, max_window=1)).draft(1.0) == [VERIFY]


@pytest.mark.parametrize("name", ["hsl", "pipesd", "adaptive"])
def test_new_thresholds_judge_the_window_under_way(name: str) -> None:
    """After `retune` the next draft is enough when the window holds a token that now fires."""
    rig = Rig(policy(name, sequence_threshold=0.1))
    assert VERIFY not in rig.draft(0.9, 0.6)
    rig.policy.retune(replace(PARAMETERS, sequence_threshold=0.1, token_threshold=0.7))
    assert rig.draft(0.99) == [VERIFY]


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_smaller_bound_does_not_strand_drafts(name: str) -> None:
    """`max_ahead` falls below what is drafted and nothing is under way: one more draft asks for all."""
    rig = Rig(policy(name))
    rig.draft(1.0, 1.0, 1.0, 1.0)
    rig.policy.retune(replace(PARAMETERS, max_ahead=2))
    assert rig.room() == 1
    assert rig.draft(1.0) == [VERIFY]


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_drafts_that_no_window_holds_count_towards_the_bound(name: str) -> None:
    """However the chain came to be this long: with nothing under way there is room for one, and it asks."""
    rig = Rig(policy(name))
    rig.num_drafted = 2 * PARAMETERS.max_ahead
    assert rig.room() == 1
    assert rig.draft(1.0) == [VERIFY]


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", POLICY_NAMES)
def test_no_session_ever_stands_still(name: str, seed: int, resume: bool) -> None:
    """Random drafts, answers, late drafts and retuning against a server that waits: there is always a draft
    to make or an answer to come, the look-ahead stays bounded, baselines ask for one window at a time."""
    rng = random.Random(seed)
    rig = Rig(policy(name, SLOW_LINK))
    num_committed, most_ahead = 0, PARAMETERS.max_ahead
    while num_committed < 300:
        waiting, room = rig.num_released > 0, rig.room()
        assert waiting or room > 0
        assert rig.num_drafted <= most_ahead + 1
        if rng.random() < 0.02:
            bounds = {"max_ahead": rng.randint(1, 16), "max_window": rng.randint(1, 12)}
            rig.policy.retune(replace(PARAMETERS, **bounds))
            most_ahead = max(rig.num_drafted, bounds["max_ahead"])
        elif room > 0 and (not waiting or rng.random() < 0.8):
            decision = rig.draft(rng.choice([0.2, 0.6, 0.9, 0.99, 1.0]))[0]
            assert not (waiting and decision is VERIFY and name in BASELINES)
        elif waiting:
            num_verified = rig.num_released
            num_accepted = num_verified if rng.random() < 0.6 else rng.randrange(num_verified)
            rig.answer(num_accepted, bonus_guessed=rng.random() < 0.7, resume=resume)
            num_committed += num_accepted + 1


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_name_makes_a_policy(name: str) -> None:
    """Each satisfies the session loop's protocol; the default is one of them."""
    made: Policy = policy(name)
    assert made.ahead(ChainView(0, 0, awaiting_commit=False)) >= 1
    assert DEFAULT_POLICY in POLICY_NAMES


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    """The error names what was asked for and what there is."""
    with pytest.raises(ConfigError, match=r"'pipe'.*adaptive, pipesd, edgellm, hsl, vanilla"):
        policy("pipe")


def test_baselines_come_with_the_thresholds_of_the_literature() -> None:
    """Only what the policy uses is replaced; bounds stay as given."""
    assert literature_parameters("hsl", PARAMETERS, "maths") == replace(PARAMETERS, token_threshold=0.7)
    assert literature_parameters("edgellm", PARAMETERS, "code") == replace(
        PARAMETERS, sequence_threshold=0.92
    )
    assert literature_parameters("adaptive", PARAMETERS, "code") == PARAMETERS
