"""One front end for all attacks on the server, as new for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.pipesd_vllm.api.front_end import KEY, FrontEnd, make_model

from .served import OTHER_KEY


@pytest.fixture(scope="package")
def one_front(tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    return FrontEnd(make_model(tmp_path_factory.mktemp("model")), "--api-key", KEY, OTHER_KEY)


@pytest.fixture
def front(one_front: FrontEnd) -> FrontEnd:
    engine = one_front.engine
    engine.longest_piece, engine.breaks, engine.gate = 3, None, None
    engine.opened, engine.commands, engine.num_plain = [], [], 0
    engine.says("Neighbours notice nothing of it.")
    return one_front


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No attack leaves a traceback in the log."""
    yield
    assert not [record for record in caplog.records if record.exc_info]
