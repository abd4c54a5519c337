"""vLLM's whole OpenAI front end without an engine: all requests, sessions among them, get scripted tokens.

The model is a configuration of a few numbers and a tokenizer of bytes, so that every character of more than
one byte, and every stop string, lies across tokens.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from prometheus_client import CollectorRegistry
from starlette.websockets import WebSocket
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.logprobs import Logprob
from vllm.renderers import renderer_from_config
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.outputs import LogprobsLists

from pipesd_vllm import compat
from pipesd_vllm.api import ServerMetrics
from pipesd_vllm.api.service import SessionConnection
from pipesd_vllm.api.session_engine import SessionEngine
from pipesd_vllm.scheduling import Command, OpenSession, unpack_command
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import (
    ASK,
    KEPT,
    Ask,
    Downstream,
    Fingerprint,
    Limits,
    Resume,
    Upstream,
    Welcome,
    decode_downstream,
    encode_in_parts,
)
from tests.answers import Answer

KEY = "sk-front-end"
SEED = 7
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}<|im_start|>assistant\n"
)
DEADLINE_S = 60.0
Script = Callable[[Sequence[int], int], list[int]]


def make_model(folder: Path, *marks: str) -> Path:
    """The files that vLLM reads before it loads weights. `marks` are further tokens, behind `MARKS`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({byte: token_id for token_id, byte in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    marks = tuple(dict.fromkeys((*MARKS, *marks)))
    made.add_tokens([AddedToken(mark, special=mark.startswith("<|")) for mark in marks])
    PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", chat_template=TEMPLATE
    ).save_pretrained(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
        "vocab_size": 256 + len(marks),
        "max_position_embeddings": 4096,
        "eos_token_id": 256 + marks.index("<|im_end|>"),
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


class ScriptedEngine:
    """What vLLM's handlers read of their engine client.

    A request's tokens are `script(prompt, offset)`, `offset` being its seed less `SEED`. A session gets them
    in pieces of random length, a plain request one at a time.
    """

    def __init__(self, config: Any) -> None:
        self.vllm_config, self.model_config = config, config.model_config
        self.renderer = renderer_from_config(config)
        self.input_processor = InputProcessor(config, self.renderer)
        self.errored, self.dead_error = False, EngineDeadError()
        self.script: Script = lambda prompt, offset: []
        self.longest_piece = 3
        self.opened: list[tuple[OpenSession, SamplingParams, Any]] = []
        self.commands: list[Command | None] = []
        self.adapters: list[Any] = []
        """The LoRA adapter of each request; None: the base model."""
        self.num_plain = 0
        self.num_running = 0
        self.breaks: tuple[int, Exception | str] | None = None
        """After how many tokens a session ends, and by what: an exception, or a reason to finish."""
        self.gate: asyncio.Event | None = None
        """If there is one, sessions wait for it after each piece."""

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None: ...

    async def is_tracing_enabled(self) -> bool:
        return False

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def ids(self, text: str, *, ends: bool = True) -> list[int]:
        tokenizer = self.renderer.get_tokenizer()
        tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return [*tokens, tokenizer.eos_token_id] if ends else tokens

    def says(self, *texts: str, ends: bool = True) -> None:
        """Answer i is text i, or the last one."""
        scripts = [self.ids(text, ends=ends) for text in texts]
        self.script = lambda prompt, offset: scripts[min(offset, len(scripts) - 1)]

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        self.num_running += 1
        self.adapters.append(options.get("lora_request"))
        try:
            plain = isinstance(prompt, dict)
            outputs = (self._plain if plain else self._session)(prompt, sampling_params, request_id)
            async for output in outputs:
                yield output
        finally:
            self.num_running -= 1

    def _tokens(self, prompt: Sequence[int], params: SamplingParams) -> tuple[list[int], str]:
        tokens = self.script(prompt, (params.seed if params.seed is not None else SEED) - SEED)
        assert params.max_tokens is not None
        tokens = tokens[: params.max_tokens]
        return tokens, "stop" if tokens[-1] == self.renderer.get_tokenizer().eos_token_id else "length"

    async def _session(self, inputs: Any, params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        first = await anext(inputs)
        prompt = list(first.prompt["prompt_token_ids"])
        request = self.input_processor.process_inputs(
            request_id, first.prompt, first.sampling_params, supported_tasks=("generate",), resumable=True
        )
        params = request.sampling_params
        command = unpack_command(params.extra_args)
        assert isinstance(command, OpenSession)
        assert not params.stop
        self.opened.append((command, params, first.prompt))
        first.prompt["prompt_token_ids"].append(3)  # vLLM adds the drafts of later chunks
        reading = asyncio.create_task(self._read(inputs))
        try:
            tokens, finish_reason = self._tokens(prompt, params)
            start, rng = len(command.committed), random.Random(request_id)
            assert tokens[:start] == list(command.committed)
            while start < len(tokens):
                piece = tokens[start : start + rng.randint(1, self.longest_piece)]
                start += len(piece)
                if self.breaks is not None and start > self.breaks[0]:
                    if isinstance(self.breaks[1], Exception):
                        raise self.breaks[1]
                    yield session_output([], self.breaks[1])
                    return
                rows = [row(token, params.logprobs) for token in piece]
                logprobs = [
                    {
                        other: Logprob(value, rank)
                        for other, value, rank in zip(ids, values, (own, *range(1, len(ids))), strict=True)
                    }
                    for ids, values, own in rows
                ]
                yield session_output(
                    piece,
                    finish_reason if start >= len(tokens) else None,
                    logprobs if params.logprobs is not None else None,
                )
                await asyncio.sleep(0)
                if self.gate is not None:
                    await self.gate.wait()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, inputs: Any) -> None:
        async for chunk in inputs:
            self.commands.append(unpack_command(chunk.sampling_params.extra_args))

    async def _plain(self, prompt: Any, params: SamplingParams, request_id: str) -> AsyncGenerator[Any, None]:
        self.num_plain += 1
        request = self.input_processor.process_inputs(
            request_id, prompt, params, supported_tasks=("generate",)
        )
        self.input_processor.assign_request_id(request)
        params = request.sampling_params
        processor = OutputProcessor(self.renderer.get_tokenizer(), log_stats=False)
        queue = RequestOutputCollector(params.output_kind, request.request_id)
        parent = ParentRequest(request) if params.n > 1 else None
        left: dict[str, tuple[list[int], str, SamplingParams]] = {}
        for index in range(params.n):
            child = copy.copy(request)
            if parent is not None:
                child.request_id, child.sampling_params = parent.get_child_info(index)
            processor.add_request(child, None, parent, index, queue)
            tokens, reason = self._tokens(prompt["prompt_token_ids"], child.sampling_params)
            left[child.request_id] = [*tokens], reason, child.sampling_params
        num_steps = 0
        while left:
            num_steps += 1
            if self.breaks is not None and num_steps > self.breaks[0]:
                if isinstance(self.breaks[1], Exception):
                    raise self.breaks[1]
                for name in left:
                    processor.process_outputs([EngineCoreOutput(name, [], finish_reason=FinishReason.ABORT)])
                yield queue.get_nowait()
                return
            for name, (tokens, reason, own) in list(left.items()):
                token = tokens.pop(0)
                finish = (
                    (FinishReason.STOP if reason == "stop" else FinishReason.LENGTH) if not tokens else None
                )
                lists = None
                if own.logprobs is not None:
                    ids, values, rank = row(token, own.logprobs)
                    lists = LogprobsLists(np.array([ids]), np.array([values], np.float32), np.array([rank]))
                done = processor.process_outputs(
                    [EngineCoreOutput(name, [token], lists, finish_reason=finish)]
                )
                if finish is not None or done.reqs_to_abort:
                    del left[name]
                if (output := queue.get_nowait()) is not None:
                    yield output
                    await asyncio.sleep(0)


def session_output(tokens: list[int], finish_reason: str | None, logprobs: Any = None) -> Any:
    completion = SimpleNamespace(
        token_ids=tokens, finish_reason=finish_reason, stop_reason=None, logprobs=logprobs
    )
    return SimpleNamespace(outputs=[completion], kv_transfer_params=None, num_cached_tokens=0)


def row(token: int, num_alternatives: int | None) -> tuple[list[int], list[float], int]:
    """Made-up log-probabilities: of the token itself first, then of the likeliest."""
    best = [(token * 7 + place) % 256 for place in range(num_alternatives or 0)]
    values = [-0.25 * (place + 1) for place in range(len(best))]
    if token in best:
        place = best.index(token)
        return [token, *best], [values[place], *values], place + 1
    return [token, *best], [-9.5, *values], 40


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing announces. Raises `TimeoutError`."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - scripted requests announce nothing
            await asyncio.sleep(0.01)


class FrontEnd:
    """vLLM's app, its engine, and both ways to ask it."""

    def __init__(self, model: Path, *flags: str) -> None:
        argv = ["--model", str(model), "--served-model-name", "m", "--dtype", "float32", "--api-key", KEY]
        args = compat.make_arg_parser().parse_args([*argv, *flags])
        config = AsyncEngineArgs.from_cli_args(args).create_engine_config()
        self.engine = ScriptedEngine(config)
        self.app = build_app(args, ("generate",))
        asyncio.run(init_app_state(self.engine, self.app.state, args, ("generate",)))
        compat.put_under_handlers(self.app.state, SessionEngine(self.engine))
        vocab_size = config.model_config.get_vocab_size()
        limits = Limits(1 << 20, 256, 16)
        fingerprint = Fingerprint(vocab_size, "")
        self.welcome = Welcome(2, "m", 4096, vocab_size, fingerprint, limits, features=[ASK, KEPT])

    async def plain(self, path: str, body: Any, request_id: str = "r", key: str = KEY) -> Answer:
        """What vLLM's own route says."""
        transport = httpx.ASGITransport(app=self.app)
        headers = {"authorization": f"Bearer {key}", "x-request-id": request_id}
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers["content-type"] = "application/json"
            answer = await client.post(path, content=content, headers=headers, timeout=DEADLINE_S)
        return Answer(answer.status_code, dict(answer.headers), answer.content)

    def edge(self, key: str = KEY, **settings: float) -> Edge:
        return Edge(self, key, **settings)


class Edge:
    """One connection to a front end; nothing of it is left at the end of its block."""

    def __init__(self, front: FrontEnd, key: str, **settings: float) -> None:
        self._up: asyncio.Queue[Any] = asyncio.Queue()
        self._down: asyncio.Queue[Any] = asyncio.Queue()
        self._front = front
        self._settings = ServerSettings(**settings)  # type: ignore[arg-type]
        self._up.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "headers": [(b"authorization", f"Bearer {key}".encode())],
            "app": front.app,
        }
        self._socket = WebSocket(scope, self._up.get, self._take)

    async def __aenter__(self) -> Edge:
        await self._socket.accept()
        metrics = ServerMetrics(CollectorRegistry())
        engine: Any = self._front.engine
        service = SessionConnection(
            self._socket, engine, self._front.welcome, self._settings, metrics, "salt"
        )
        self._serving = asyncio.create_task(service.serve())
        assert (await self._down.get())["type"] == "websocket.accept"
        welcome = await self.frame()
        assert isinstance(welcome, Welcome)
        self.welcome = welcome
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()
        await asyncio.wait_for(self._serving, DEADLINE_S)
        assert self._front.engine.num_running == 0

    def leave(self) -> None:
        """The line is lost."""
        self._up.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def _take(self, event: Any) -> None:
        self._down.put_nowait(event)

    def send(self, *messages: Upstream) -> None:
        for message in messages:
            for data in encode_in_parts(message):
                self._up.put_nowait({"type": "websocket.receive", "bytes": data})

    async def event(self) -> Any:
        return await asyncio.wait_for(self._down.get(), DEADLINE_S)

    async def frame(self) -> Downstream:
        event = await self.event()
        assert event["type"] == "websocket.send", event
        return decode_downstream(event["bytes"])

    async def answer(self, *ask: Upstream) -> Answer:
        """All that comes for an `Ask`, or for its parts."""
        self.send(*ask)
        answer = Answer()
        while not answer.is_whole:
            answer.add(await self.frame())
        return answer


def ask(path: str, body: Any, **fields: Any) -> Ask:
    return Ask(1, path, body if isinstance(body, bytes) else json.dumps(body).encode(), "r", **fields)  # type: ignore[arg-type]


def same(got: Answer, plain: Answer) -> None:
    """Equal but for ids and times; of a stream the chunks of each choice."""
    assert got.status == plain.status
    assert got.is_stream == plain.is_stream
    if got.is_stream:
        assert got.by_choice() == plain.by_choice()
    else:
        assert got.whole() == plain.whole()


async def both(front: FrontEnd, path: str, body: Any) -> Answer:
    """The session's answer, equal to the plain one."""
    plain = await front.plain(path, body)
    num_plain = front.engine.num_plain
    async with front.edge() as edge:
        got = await edge.answer(ask(path, body))
    assert front.engine.num_plain == num_plain
    same(got, plain)
    return got


async def answered(
    front: FrontEnd, path: str, body: dict[str, Any], resume: Resume | None = None
) -> tuple[Answer, list[Downstream]]:
    """The answer to an `Ask` without drafts, or the rest of one, and its frames."""
    answer, frames = Answer(), []
    if resume is not None:
        answer.resumes(resume)
    async with front.edge() as edge:
        edge.send(ask(path, body, resume=resume))
        while not answer.is_whole:
            frames.append(await edge.frame())
            answer.add(frames[-1])
    return answer, frames


def cut(frames: list[Downstream], number: int) -> tuple[Answer, Resume]:
    """What an edge holds that lost its line after so many frames."""
    held = Answer()
    for frame in frames[:number]:
        held.add(frame)
    choices = held.by_choice() if held.is_stream else {}
    num_choices = 1 + max((choice for choice in choices if choice is not None), default=-1)
    delivered = [len(choices.get(choice, ())) for choice in range(num_choices)]
    streams = [held.streams[stream].resumable() for stream in sorted(held.streams)]
    prompt = held.begun[0].prompt if held.begun else []
    return held, Resume(prompt, streams, delivered)
