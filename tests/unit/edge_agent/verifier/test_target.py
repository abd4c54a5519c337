"""What is known of the target, and how often its server is asked for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from edge_agent.api import TargetInfo, TokenizerBundle
from edge_agent.errors import CloudUnreachable
from edge_agent.testing import fake_welcome
from edge_agent.verifier import ServedTarget
from edge_agent.verifier.target import no_own_tokenizer
from pipesd_vllm.wire import Fingerprint, Welcome, fingerprint

TARGET = TargetInfo("m", 64, 10)
WELCOME = fake_welcome(fingerprint([f"t{i}" for i in range(10)]))


class Server:
    """Has `adapters`; `is_away`: does not say which. Answers once `may_answer`."""

    def __init__(self) -> None:
        self.model = "m"
        self.adapters: tuple[str, ...] = ("poet",)
        self.is_away = False
        self.num_asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def api(self) -> Any:
        server = self

        class Api:
            async def target(self) -> TargetInfo:
                return replace(TARGET, model=server.model)

            async def tokenizer(self) -> TokenizerBundle:
                return TokenizerBundle("{}", None, {}, ())

            async def adapters(self) -> tuple[str, ...]:
                server.num_asked += 1
                listed = server.adapters
                await server.may_answer.wait()
                if server.is_away:
                    raise CloudUnreachable("away")
                return listed

            def serves(self, welcome: Welcome) -> bool:
                return welcome.model == server.model

            def forget(self) -> None: ...

        return Api()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def served(server: Server, clock: Clock) -> ServedTarget:
    async def none(num_tokens: int) -> Fingerprint:
        raise AssertionError

    return ServedTarget(server.api(), None, none, no_own_tokenizer, may_be_away=True, clock=clock)


async def test_a_page_that_polls_does_not_poll_the_server(
    served: ServedTarget, server: Server, clock: Clock
) -> None:
    """Within the age that is asked for the list stands; then it is renewed."""
    assert [(await served.target(max_age_s=5)).adapters for _ in range(9)] == [("poet",)] * 9
    clock.now_s += 4
    server.adapters = ("poet", "bard")
    assert ((await served.target(max_age_s=5)).adapters, server.num_asked) == (("poet",), 1)
    clock.now_s += 2
    assert ((await served.target(max_age_s=5)).adapters, server.num_asked) == (("poet", "bard"), 2)
    clock.now_s += 1
    assert (await served.target()).adapters == ("poet", "bard")
    await served.target(offline=True, max_age_s=0)
    assert server.num_asked == 2


async def test_a_name_that_may_be_new_is_asked_for_at_once(
    served: ServedTarget, server: Server, clock: Clock
) -> None:
    await served.target(max_age_s=5)
    server.adapters = ("bard",)
    clock.now_s += 0.1
    assert (await served.target(max_age_s=0)).adapters == ("bard",)


async def test_those_who_ask_meanwhile_share_the_answer(served: ServedTarget, server: Server) -> None:
    """And who asks for no list does not wait for it."""
    server.may_answer.clear()
    asking = [asyncio.create_task(served.target(max_age_s=5)) for _ in range(9)]
    await asyncio.sleep(0)
    assert (await served.target()).adapters is None
    server.may_answer.set()
    assert [(await each).adapters for each in asking] == [("poet",)] * 9
    assert server.num_asked == 1


async def test_a_server_that_does_not_answer_is_not_asked_at_each_poll(
    served: ServedTarget, server: Server, clock: Clock
) -> None:
    """What it said before stays."""
    await served.target(max_age_s=5)
    server.is_away = True
    clock.now_s += 6
    assert [(await served.target(max_age_s=5)).adapters for _ in range(9)] == [("poet",)] * 9
    assert server.num_asked == 2


async def test_another_target_has_adapters_of_its_own(served: ServedTarget, server: Server) -> None:
    """However young the list is; one that is under way for the former target is not taken for its own."""
    await served.target(max_age_s=5)
    server.model, server.adapters = "other", ("bard",)
    served.notice(msgspec.structs.replace(WELCOME, model="m"))
    assert await served.target(max_age_s=5) == TargetInfo(
        "other", 64, 10, has_draft=False, adapters=("bard",)
    )
    server.may_answer.clear()
    asking = asyncio.create_task(served.target(max_age_s=-1))
    await asyncio.sleep(0)
    server.model, server.adapters = "third", ()
    served.notice(msgspec.structs.replace(WELCOME, model="other"))
    assert (await served.target()).model == "third"
    server.may_answer.set()
    assert (await asking).model == "third"
    assert (await served.target(max_age_s=5)).adapters == ()
