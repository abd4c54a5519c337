"""Runs a plan: builds servers, edges and network on virtual time, lets the faults happen, notes what came.

Everything between a chat's client and the target's next-token function is the product's code and vLLM's.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import itertools
import json
import logging
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path as Folder
from typing import Any, Final
from unittest.mock import patch

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from fastapi import FastAPI

from benchmarks.sim.edge import PathTransport, SimEdge, host_of
from benchmarks.sim.front import SimServer, front_end
from benchmarks.sim.gateway import HttpFailure, gateway_app, prompt_of, request_of, stream_events
from benchmarks.sim.lies import lie_as_edge
from benchmarks.sim.log import EventLog
from benchmarks.sim.loop import VirtualLoop, refuse_real_time
from benchmarks.sim.network import Cut, Path, SimNetwork, Window
from benchmarks.sim.outcome import ChatOutcome, Emitted, End, Leftovers, Outcome, Shown
from benchmarks.sim.plan import (
    AbortAll,
    Api,
    Blackhole,
    Chat,
    DraftFails,
    EdgeCrash,
    EdgeLies,
    EdgePlan,
    EngineDeath,
    EngineStall,
    Fault,
    Leave,
    LinkPlan,
    NatForgets,
    Overload,
    Plan,
    Refuse,
    Reset,
    Restart,
    ServerLies,
    ServerPlan,
    Stall,
    Unauthorized,
)
from benchmarks.sim.tuning import tuned_parameters
from edge_agent.api import GenerationChunk, GenerationRequest, SessionMode, Source
from edge_agent.errors import EdgeError
from pipesd_vllm.wire import Sampling

__all__ = ["answer_alone", "prepare", "run"]

_LIAR_PROMPT: Final = (270, 271, 272)
_TEARDOWN_S: Final = 5.0
_CLOSING_S: Final = 60.0
"""So long a closed edge may take to let go of its connections, dead lines among them."""
_NOW_S: Final = 1.8e9
"""The date of all runs, in Unix time."""
_OF_THE_PROCESS: Final = frozenset({"_shutdown_watcher"})
"""Tasks that live as long as a process does: sse-starlette's, which waits for the server's end."""
_NOT_COUNTED: Final = ("benchmarks.", "asyncio.futures._set_result_unless_cancelled")
"""Timers of the simulated world, and those of sleeping tasks, which are counted as tasks."""


def run(plan: Plan, *, keep_events: bool = False) -> Outcome:
    """Run `plan` to its end. What goes wrong inside is in the outcome; only a bad plan raises."""
    prepare()
    for number in range(len(plan.servers)):
        front_end(number)
    loop = VirtualLoop()
    log = EventLog(loop.time, keep=keep_events)
    outcome = Outcome(plan, [ChatOutcome(prompt_of(chat)) for chat in plan.chats], Leftovers())
    began_s = time.process_time()
    with _determined(plan.seed), tempfile.TemporaryDirectory(prefix="pipesd-sim-") as folder:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(_run(plan, loop, log, Folder(folder), outcome))
        except Exception as error:
            outcome.problems.append(f"run: {type(error).__name__}: {error}")
        finally:
            _tear_down(loop, outcome)
            asyncio.set_event_loop(None)
    outcome.cpu_s = time.process_time() - began_s
    outcome.problems += [_described(context) for context in loop.errors]
    outcome.log_hash, outcome.num_events, outcome.events = log.digest(), log.num_events, log.events
    return outcome


def answer_alone(target: str, prompt: Sequence[int], sampling: Sampling) -> list[int]:
    """What `target` answers in a run without drafts and faults: the reference where a structure is asked for.

    Without one, `benchmarks.sim.models.reference` gives the same and runs nothing.
    """
    plan = Plan(
        seed=0,
        servers=(ServerPlan(target=target),),
        edges=(EdgePlan(drafts=False, lookup=False),),
        chats=(Chat(prompt=tuple(prompt), sampling=sampling, mode=SessionMode.LATENCY),),
        settle_s=0.0,
    )
    return run(plan).chats[0].token_ids


_prepared = False


def prepare() -> None:
    """Load once what all runs share, and take it out of the garbage collector's sight."""
    global _prepared
    if not _prepared:
        _prepared = True
        gc.collect()
        gc.freeze()
        atexit.register(gc.unfreeze)


@contextmanager
def _determined(seed: int) -> Iterator[None]:
    """Within it nothing but the plan decides: no collection of garbage, no real time, seeded randomness.

    uvicorn and websockets draw the contents of pings and masks from `random`, whose state comes back; ids are
    drawn from it, too, and the date, which answers have in them, stands still.
    """
    state, was_enabled, disabled = random.getstate(), gc.isenabled(), logging.root.manager.disable
    random.seed(seed)
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        with (
            refuse_real_time(),
            patch("uuid.uuid4", lambda: uuid.UUID(int=random.getrandbits(128), version=4)),
            patch("time.time", lambda: _NOW_S),
            patch("urllib.request.getproxies", dict),
        ):
            yield
    finally:
        random.setstate(state)
        logging.disable(disabled)
        if was_enabled:
            gc.enable()


def _tear_down(loop: VirtualLoop, outcome: Outcome) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()

    async def end() -> None:
        if tasks:
            await asyncio.wait(tasks, timeout=_TEARDOWN_S)
        await loop.shutdown_asyncgens()

    num_errors = len(loop.errors)
    try:
        loop.run_until_complete(end())
    except Exception as error:
        outcome.problems.append(f"teardown: {type(error).__name__}: {error}")
    del loop.errors[num_errors:]
    loop.close()


def _described(context: dict[str, Any]) -> str:
    return f"loop: {context.get('message')}: {context.get('exception')!r}"


async def _run(plan: Plan, loop: VirtualLoop, log: EventLog, folder: Folder, outcome: Outcome) -> None:
    world = World(plan, loop, log, folder, outcome)
    try:
        await world.warm_up()
        world.arm()
        await world.converse()
        if plan.settle_s:
            await world.settle()
    finally:
        world.sum_up()


def _name_of(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), "__qualname__", "?"))


class World:
    """One run: servers, edges, network, chats."""

    def __init__(
        self, plan: Plan, loop: VirtualLoop, log: EventLog, folder: Folder, outcome: Outcome
    ) -> None:
        self._plan = plan
        self._loop = loop
        self._log = log
        self._outcome = outcome
        self._network = SimNetwork(loop, log)
        loop.network = self._network
        ids = itertools.count()
        self._servers = [
            SimServer(number, server, self._network, log, lambda: f"{next(ids):08x}", self._lies_of(number))
            for number, server in enumerate(plan.servers)
        ]
        rng = random.Random(plan.seed)
        http = PathTransport(self._network, lambda server: self._servers[server].app)
        self._edges = []
        for number, edge in enumerate(plan.edges):
            self._add_path(host_of(number), edge.server, edge.link, luck := rng.getrandbits(64))
            for replica, server in enumerate(edge.replicas, 1):
                self._add_path(host_of(number, replica), server, edge.link, luck + replica)
            target = plan.servers[edge.server].target
            cache_dir = folder / host_of(number)
            parameters = tuned_parameters(edge.parameters, target, cache_dir) if edge.tune else None
            own = random.Random(rng.getrandbits(64))
            self._edges.append(SimEdge(number, edge, target, own, http, cache_dir, parameters))
        self._gateways: dict[int, FastAPI] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._liars: list[asyncio.Task[None]] = []
        self._began_s = loop.time()

    def _lies_of(self, server: int) -> tuple[ServerLies, ...]:
        lies = (fault for fault in self._plan.faults if isinstance(fault, ServerLies))
        return tuple(lie for lie in lies if self._plan.edges[lie.edge].server == server)

    def _add_path(self, host: str, server: int, link: LinkPlan, seed: int) -> None:
        self._network.paths[host] = Path(host, server, link, random.Random(seed))

    async def warm_up(self) -> None:
        """Edges that are to be warm make their first connection. Raises nothing of theirs."""
        for edge in self._edges:
            if edge.plan.warm:
                with suppress(EdgeError):
                    await edge.agent.warm_up()
        self._began_s = self._loop.time()

    # -- faults ---------------------------------------------------------------------------

    def arm(self) -> None:
        """Set the timers of all faults; their times count from now."""
        for number, fault in enumerate(self._plan.faults):
            self._arm(number, fault)

    def _arm(self, number: int, fault: Fault) -> None:
        began_s = self._began_s
        match fault:
            case Reset(edge=edge, connection=connection, side=side, after=after):
                self._path(edge).cuts.append(Cut(connection, side, after))
            case Stall(edge=edge, at_s=at_s, for_s=for_s, side=side):
                self._path(edge).stalls.append(Window(began_s + at_s, began_s + at_s + for_s, side))
            case Blackhole(edge=edge, at_s=at_s, for_s=for_s, side=side):
                self._path(edge).holes.append(Window(began_s + at_s, began_s + at_s + for_s, side))
            case Refuse(edge=edge, at_s=at_s, for_s=for_s):
                self._path(edge).refusals.append(Window(began_s + at_s, began_s + at_s + for_s))
            case NatForgets(edge=edge, at_s=at_s):
                self._at(at_s, self._forget, edge)
            case EngineStall(at_s=at_s, for_s=for_s, server=server):
                self._servers[server].stall(began_s + at_s, began_s + at_s + for_s)
            case Unauthorized(at_s=at_s, for_s=for_s, server=server):
                self._at(at_s, self._servers[server].refuse_keys, for_s)
            case Overload(at_s=at_s, for_s=for_s, server=server):
                self._at(at_s, self._servers[server].fill, for_s)
            case Restart(at_s=at_s, down_s=down_s, target=target, server=server):
                self._at(at_s, self._servers[server].restart, down_s, target)
            case EngineDeath(at_s=at_s, down_s=down_s, server=server):
                self._at(at_s, self._servers[server].die, down_s)
            case AbortAll(at_s=at_s, server=server):
                self._at(at_s, self._abort_all, server)
            case Leave(chat=chat, at_s=at_s):
                self._at(at_s, self._leave, chat)
            case EdgeCrash(edge=edge, at_s=at_s):
                self._at(at_s, self._crash, edge)
            case DraftFails(edge=edge, call=call):
                self._edges[edge].drafter.failing_calls.add(call)
            case EdgeLies(at_s=at_s, server=server):
                self._add_path(f"liar{number}", server, LinkPlan(), self._plan.seed)
                self._at(at_s, self._lie, f"liar{number}", fault)
            case ServerLies():
                pass  # the server knows

    def _at(self, at_s: float, callback: Callable[..., object], *arguments: object) -> None:
        self._loop.call_at(self._began_s + at_s, callback, *arguments)

    def _path(self, edge: int) -> Path:
        return self._network.paths[host_of(edge)]

    def _forget(self, edge: int) -> None:
        for connection in self._path(edge).connections:
            connection.forget()

    def _abort_all(self, server: int) -> None:
        if self._servers[server].is_up and not self._servers[server].engine.errored:
            self._servers[server].engine.abort_all()

    def _leave(self, chat: int) -> None:
        if chat < len(self._tasks) and not self._tasks[chat].done():
            self._outcome.chats[chat].end = End(left=True)
            self._tasks[chat].cancel()

    def _crash(self, edge: int) -> None:
        for connection in self._path(edge).connections:
            connection.client.abort()
        for number, chat in enumerate(self._plan.chats):
            if chat.edge == edge:
                self._leave(number)

    def _lie(self, host: str, fault: EdgeLies) -> None:
        key = self._plan.servers[fault.server].api_key
        self._liars.append(self._loop.create_task(lie_as_edge(host, fault, key, _LIAR_PROMPT)))

    # -- chats ----------------------------------------------------------------------------

    async def converse(self) -> None:
        """Run all chats to their ends, or to the deadline."""
        self._tasks = [self._loop.create_task(self._chat(i)) for i in range(len(self._plan.chats))]
        _, late = await asyncio.wait(self._tasks, timeout=self._plan.deadline_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _chat(self, number: int) -> None:
        chat, outcome = self._plan.chats[number], self._outcome.chats[number]
        if chat.after is not None:
            await asyncio.wait([self._tasks[chat.after]])
        await asyncio.sleep(chat.start_s)
        outcome.started_s = self._loop.time() - self._began_s
        end = End()
        try:
            if chat.api is Api.AGENT:
                end = await self._ask_agent(number, chat, outcome)
            else:
                end = await self._ask_gateway(number, chat, outcome)
        except EdgeError as error:
            end = End(error=type(error).__name__, message=str(error))
        except HttpFailure as error:
            end = End(error=error.kind, message=str(error))
        except Exception as error:
            end = End(bug=f"{type(error).__name__}: {error}")
        outcome.end = end
        outcome.ended_s = self._loop.time() - self._began_s
        self._log("end", number, end.finish_reason, end.error, end.bug)

    async def _ask_agent(self, number: int, chat: Chat, outcome: ChatOutcome) -> End:
        request = GenerationRequest(
            f"chat{number}", chat.prompt, chat.sampling, route=chat.route, mode=chat.mode, policy=chat.policy
        )
        end = End()
        async with aclosing(self._edges[chat.edge].agent.generate(request)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if end.finish_reason is not None:
                    end = End(bug="a chunk after the last one")
                    break
                self._note(number, outcome, chunk)
                if chunk.finish_reason is not None:
                    end = End(finish_reason=str(chunk.finish_reason))
        return end if end != End() else End(bug="the answer ended without a reason")

    def _note(self, number: int, outcome: ChatOutcome, chunk: GenerationChunk) -> None:
        now_s = self._loop.time() - self._began_s
        self._log("chunk", number, chunk.token_ids, str(chunk.finish_reason))
        sources = chunk.sources or (None,) * len(chunk.token_ids)
        for token_id, source in zip(chunk.token_ids, sources, strict=True):
            is_verified = source is not Source.UNVERIFIED
            told = "" if source is None else str(source)
            outcome.tokens.append(Emitted(len(outcome.tokens), token_id, is_verified, told, now_s))
        if chunk.token_ids and outcome.first_s is None:
            outcome.first_s = now_s
        outcome.stats = chunk.stats
        outcome.route, outcome.route_reason = str(chunk.stats.route), chunk.stats.route_reason
        outcome.marked_verified = chunk.stats.verified

    async def _ask_gateway(self, number: int, chat: Chat, outcome: ChatOutcome) -> End:
        edge = self._edges[chat.edge]
        if chat.edge not in self._gateways:
            self._gateways[chat.edge] = gateway_app(edge.agent)
        model = self._plan.servers[edge.plan.server].target
        end = End()
        events = stream_events(self._gateways[chat.edge], *request_of(chat, model))
        async with aclosing(events):
            async for data in events:
                self._log("event", number, len(data))
                outcome.chunks.append(data)
                if data != "[DONE]":
                    end = self._note_event(chat, outcome, json.loads(data), end)
        if end == End():
            return End(bug="the stream ended without a reason")
        if end.error is None and (not outcome.chunks or outcome.chunks[-1] != "[DONE]"):
            return End(bug="the stream ended without [DONE]")
        return end

    def _note_event(self, chat: Chat, outcome: ChatOutcome, event: dict[str, Any], end: End) -> End:
        if (error := event.get("error")) is not None:
            return End(error=str(error.get("code") or error.get("type")), message=str(error.get("message")))
        if (stats := event.get("pipesd")) and "route" in stats:
            outcome.route, outcome.route_reason = stats["route"], stats["reason"]
            outcome.marked_verified = stats["verified"]
        for choice in event.get("choices", ()):
            text = choice.get("text") or (choice.get("delta") or {}).get("content")
            shown = outcome.shown.setdefault(choice["index"], Shown())
            if text:
                shown.text.append(text)
                if outcome.first_s is None:
                    outcome.first_s = self._loop.time() - self._began_s
            if choice.get("finish_reason") is not None:
                shown.finish_reason = choice["finish_reason"]
            if sum(each.finish_reason is not None for each in outcome.shown.values()) == chat.n:
                end = End(finish_reason=outcome.shown[0].finish_reason)
        return end

    # -- afterwards -----------------------------------------------------------------------

    async def settle(self) -> None:
        """Close the edges, let time pass, and count what is left."""
        self._outcome.virtual_s = max((chat.ended_s or 0.0 for chat in self._outcome.chats), default=0.0)
        for edge in self._edges:
            cost = edge.plan.draft
            await asyncio.sleep(0.5 + 2 * cost.call_s + edge.plan.context_length * cost.token_s)
        num_sequences = sum(edge.num_sequences for edge in self._edges)
        for edge in self._edges:
            await edge.agent.close()
        await asyncio.sleep(_CLOSING_S)
        num_held = sum(self._path(number).num_held for number in range(len(self._edges)))
        await asyncio.sleep(max(0.0, self._plan.settle_s - _CLOSING_S))
        for liar in self._liars:
            liar.cancel()
        await asyncio.gather(*self._liars, return_exceptions=True)
        await asyncio.sleep(1.0)
        own = {asyncio.current_task()}.union(*(server.background_tasks() for server in self._servers))
        tasks = [task for task in asyncio.all_tasks() - own if _name_of(task) not in _OF_THE_PROCESS]
        timers = [name for name in self._loop.timers() if not name.startswith(_NOT_COUNTED)]
        engines = [server.engine for server in self._servers if server.is_up]
        names = {*map(_name_of, tasks), *timers}
        self._outcome.leftovers = Leftovers(
            requests=sum(engine.num_requests for engine in engines),
            sessions=sum(engine.process.scheduler.num_sessions for engine in engines),
            kv_blocks=sum(engine.process.num_used_blocks for engine in engines),
            sequences=num_sequences,
            connections=sum(len(server.state.connections) for server in self._servers if server.is_up),
            held_connections=num_held,
            transports=self._network.num_open,
            tasks=len(tasks),
            timers=len(timers),
            names=tuple(sorted(names)),
        )

    def sum_up(self) -> None:
        """What engines and paths counted."""
        outcome = self._outcome
        if not outcome.virtual_s:
            outcome.virtual_s = max((chat.ended_s or 0.0 for chat in outcome.chats), default=0.0)
        for server in self._servers:
            outcome.problems += [f"engine: {failure!r}" for failure in server.failures()]
            for record in server.records():
                outcome.steps += record.steps
                outcome.target_passes += record.passes
                outcome.preemptions += record.preemptions
        for path in self._network.paths.values():
            for side, count in path.num_bytes.items():
                if side == "up":
                    outcome.bytes_up += count
                else:
                    outcome.bytes_down += count
        self._attribute()

    def _attribute(self) -> None:
        """Give each engine request to the chat of its server whose prompt it begins with, the longest one.

        Chats with one prompt at one server cannot be told apart here: the first one gets all.
        """
        for number, server in enumerate(self._servers):
            chats = [
                outcome
                for chat, outcome in zip(self._plan.chats, self._outcome.chats, strict=True)
                if number in self._plan.edges[chat.edge].servers
            ]
            for record in server.records():
                for request in record.requests.values():
                    fitting = [chat for chat in chats if request.prompt[: len(chat.prompt)] == chat.prompt]
                    if fitting:
                        chat = max(fitting, key=lambda chat: len(chat.prompt))
                        chat.target_passes += request.passes
                        if chat.targets[-1:] != (request.target,):
                            chat.targets += (request.target,)
