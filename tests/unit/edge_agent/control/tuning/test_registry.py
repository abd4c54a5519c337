"""Tuner, process and file together."""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest

from edge_agent.api import SessionMode
from edge_agent.control import EnvironmentSnapshot, FixedParameters, SessionParameters
from edge_agent.control.tuning.background import BackgroundProposer
from edge_agent.control.tuning.registry import (
    Autotuner,
    FindSpec,
    TunedParameters,
    make_proposer,
)
from edge_agent.control.tuning.search import Evaluation, SobolProposer, Suggestion
from edge_agent.control.tuning.store import LinkClass, TuningKey, TuningStore
from edge_agent.control.tuning.tuner import Phase, Tuner, TunerSettings, TunerState

from .surface import BASE, SPACE, START, bowl

KEY = TuningKey("draft.gguf", "org/target", LinkClass.METRO, SessionMode.OFFLOAD)


class Inline(Executor):
    """Runs at once, in the caller's thread; refuses after a shutdown, as all executors do."""

    def __init__(self) -> None:
        self.is_shut_down = False

    def submit(self, function, /, *args, **kwargs):
        if self.is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future = Future()
        future.set_result(function(*args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.is_shut_down = True


class Sobol:
    """A solver that needs no time."""

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        return SobolProposer(4, 0).suggest(evaluations)


def installed(_package: str) -> object:
    return object()


def missing(package: str) -> object | None:
    return None if package == "botorch" else object()


def tuned(folder: Path, find_spec: FindSpec = installed) -> TunedParameters:
    return TunedParameters(BASE, KEY.draft, KEY.target, store=TuningStore(folder), find_spec=find_spec)


def session(parameters: TunedParameters, rtt_s: float = 0.02) -> SessionParameters:
    """What a session of `KEY`'s mode gets, by default over `KEY`'s link."""
    return parameters.for_session("adaptive", KEY.mode, EnvironmentSnapshot(rtt_s=rtt_s))


def feed(source: SessionParameters, num_tokens: int) -> None:
    for _ in range(num_tokens // 4):
        source.observe(4, 4 * bowl(source.parameters) / 1e3, 1, under=source.parameters)


class Harness:
    """An autotuner with everything around it recorded."""

    def __init__(self) -> None:
        self.saved: list[TunerState] = []
        self.num_released = 0
        self.executor = Inline()
        tuner = Tuner(SPACE, START, SobolProposer(4, 0), TunerSettings())
        self.autotuner = Autotuner(tuner, self.saved.append, self._release, self.executor)

    def _release(self) -> None:
        self.num_released += 1


def test_every_trial_is_saved() -> None:
    """A crash loses at most the trial that is running."""
    harness = Harness()
    feed(harness.autotuner, 5 * 72)
    assert [len(state.observations) for state in harness.saved] == [1, 2, 3, 4, 5]


def test_the_end_of_a_search_frees_what_it_needed() -> None:
    """The process of the model and its memory are gone once parameters are settled, not before."""
    harness = Harness()
    while harness.autotuner.phase is not Phase.EXPLOITING:
        assert harness.num_released == 0
        feed(harness.autotuner, 4)
    assert harness.num_released == 1
    assert harness.saved[-1].best == harness.autotuner.parameters


def test_closing_saves_and_freezes() -> None:
    """Sessions that go on keep their parameters; closing twice does nothing more."""
    harness = Harness()
    feed(harness.autotuner, 100)
    harness.executor.shutdown()
    harness.autotuner.close()
    harness.autotuner.close()
    num_saved, parameters = len(harness.saved), harness.autotuner.parameters
    feed(harness.autotuner, 1000)
    assert harness.num_released == 1
    assert (len(harness.saved), harness.autotuner.parameters) == (num_saved, parameters)


def test_an_executor_that_is_gone_does_not_stop_a_session() -> None:
    """Nothing is saved in the background any more, nothing is raised."""
    harness = Harness()
    harness.executor.shutdown()
    feed(harness.autotuner, 1000)
    assert harness.saved == []


def test_without_botorch_there_is_no_proposer() -> None:
    """Asked of the import system, without importing."""
    assert make_proposer(Sobol(), 4, Inline(), missing) is None
    assert isinstance(make_proposer(Sobol(), 4, Inline(), installed), BackgroundProposer)


def test_without_botorch_parameters_are_fixed_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For all links and modes together one line."""
    parameters = tuned(tmp_path, missing)
    with caplog.at_level(logging.WARNING):
        sources = [session(parameters, rtt_s) for rtt_s in (0.001, 0.005, 0.02, 0.05, 0.2)]
    parameters.close()
    assert all(isinstance(source, FixedParameters) for source in sources)
    feed(sources[0], 10_000)
    assert sources[0].parameters == BASE
    assert ["pipesd[edge]" in record.getMessage() for record in caplog.records] == [True]


def test_the_next_agent_goes_on_where_this_one_ended(tmp_path: Path) -> None:
    """Measurements survive; the parameters start from the best of them."""
    first = tuned(tmp_path)
    source = session(first)
    assert source.parameters == BASE
    feed(source, 200)
    first.close()
    second = tuned(tmp_path)
    assert session(second).parameters == min(START, key=bowl)
    second.close()


@pytest.mark.slow
def test_tuning_with_the_real_process(tmp_path: Path) -> None:
    """A short search through registry, thread, process and BoTorch ends in use and on disk."""
    pytest.importorskip("botorch")
    store = TuningStore(tmp_path)
    settings = TunerSettings(num_evaluations=8, num_confirmations=1)
    parameters = TunedParameters(BASE, KEY.draft, KEY.target, settings=settings, store=store)
    source = session(parameters)
    assert isinstance(source, Autotuner)
    while source.phase is not Phase.EXPLOITING:
        feed(source, 4)
    parameters.close()
    state = store.load(KEY)
    assert state is not None
    assert state.best == source.parameters
