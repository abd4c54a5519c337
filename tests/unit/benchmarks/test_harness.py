"""What the benchmarks share: servers, agent and gateway as a pair, the client, prompts, rivals."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from benchmarks.harness.clients import connected, exactly, question
from benchmarks.harness.options import Flags
from benchmarks.harness.pacing import PacedDrafter
from benchmarks.harness.processes import session_cpu_s, session_rss_mb
from benchmarks.harness.prompts import (
    HUMANEVAL,
    Prompt,
    fitting,
    in_order,
    load_datasets,
    load_prompts,
    tokenised,
)
from benchmarks.harness.recorder import RecordingGenerator
from benchmarks.harness.rivals import EVERYBODY, Rival, Way, Wire, interleaved, parse_rivals, rival_parameters
from benchmarks.harness.server import running_server
from edge_agent.api import GenerationChunk, GenerationRequest, Sampling, SessionMode
from edge_agent.control import PolicyParameters
from edge_agent.errors import ModelError
from edge_agent.sampling import DraftToken
from edge_agent.testing import FakeDrafter, FakeGenerator, fake_tokenizer_bundle
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.hosting import hosted_gateway
from openai_gateway.local.text.tokenizer import TargetText
from tests.e2e.stack import serving
from tests.unit.benchmarks.conftest import MAX_MODEL_LEN, ConnectPair, MakeFake

TEXT = "hello world, hello you"
PROMPT = (5, 6, 7)
ASKED = {**question("hello"), **exactly(32)}


def flags(*vllm: str, **given: object) -> Flags:
    return Flags(given, vllm)


# -- the server ---------------------------------------------------------------------------


def test_a_running_server_is_used_as_it_is() -> None:
    """Nothing is started; a pasted OpenAI URL and the key reach the agent's settings."""
    with running_server(flags(cloud="http://gpu:8000/v1", dtype="float32", api_key="k")) as server:
        assert server.process is None
        assert server.cpu_s() is None
        assert server.settings.cloud_url == "http://gpu:8000"
        assert server.settings.api_key is not None


@pytest.mark.parametrize(
    "given", [flags(cloud="http://gpu:8000", target="m"), flags("--x", cloud="http://gpu:8000")]
)
def test_flags_that_would_have_no_effect_are_refused(given: Flags) -> None:
    """Misuse, so exit code 2."""
    with pytest.raises(CliError, match="leave them out") as caught, running_server(given):
        pass
    assert caught.value.exit_code == 2


def test_a_mistyped_draft_does_not_wait_for_the_server() -> None:
    """It is told before anything is started."""
    given = flags(target="/no/such/folder", draft="embeded")
    with pytest.raises(ModelError, match="'embeded' does not exist"), running_server(given):
        pass


def test_a_session_is_measured_with_all_its_processes() -> None:
    """CPU and memory of a process group's session are found; of one that is gone nothing is known."""
    code = "import sys; sum(range(3_000_000)); print('ready', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    cpu_s, rss_mb = session_cpu_s(child.pid), session_rss_mb(child.pid)
    child.communicate()
    assert cpu_s is not None
    assert cpu_s > 0
    assert rss_mb is not None
    assert rss_mb > 1
    assert session_cpu_s(child.pid) is None
    assert session_cpu_s(os.getsid(0)) is not None


# -- agent, gateway and the client ---------------------------------------------------------


async def test_all_ways_give_figures(
    connect_pair: ConnectPair, token_ids: Callable[[str], Sequence[int]]
) -> None:
    """Both ends see the same prompt and number of tokens; the agent's figures come with ours only."""
    num_tokens = len(token_ids(TEXT))
    async with connect_pair(TEXT, TEXT) as pair:
        ours, plain, local = [await pair.answer(way, PROMPT, num_tokens) for way in Way]
    assert ours.text == plain.text == TEXT
    assert local.text == ""
    for answer in (ours, plain, local):
        assert 0 < answer.ttft_s <= answer.total_s
        assert answer.num_tokens == num_tokens
    assert ours.stats is not None
    assert ours.stats.target_passes == -(-num_tokens // 3)
    assert plain.stats is None


async def test_an_answer_of_another_length_is_no_measurement(connect_pair: ConnectPair) -> None:
    """It is refused, whoever gave it."""
    async with connect_pair(TEXT, TEXT) as pair:
        for way in (Way.COLLABORATIVE, Way.CLOUD):
            with pytest.raises(CliError, match=f"{way} gave .* instead of 40"):
                await pair.answer(way, PROMPT, 40)


async def test_a_refusal_says_who_and_why(connect_pair: ConnectPair) -> None:
    """A prompt that does not fit, and a server that is gone, end in one sentence."""
    async with connect_pair(TEXT, TEXT) as pair:
        with pytest.raises(CliError, match=r"127\.0\.0\.1.* refused .*HTTP 400"):
            await pair.answer(Way.CLOUD, PROMPT * MAX_MODEL_LEN, 5)
    async with connected("http://127.0.0.1:9/v1") as client:
        with pytest.raises(CliError, match="does not answer"):
            await client.model()


async def test_one_connection_for_all_answers(make_fake: MakeFake) -> None:
    """Each piece of text has its time, in order, and all answers share a connection."""
    async with hosted_gateway(make_fake(TEXT)) as url, connected(url) as client:
        assert await client.model() == "org/target"
        answers = [await client.stream(ASKED) for _ in range(3)]
        assert client.num_connections == 1
    assert len({answer.answer_id for answer in answers}) == 3
    for answer in answers:
        times_s = [answer.started_s, *answer.arrivals_s, answer.chunks_s[-1]]
        assert len(times_s) > 3
        assert times_s == sorted(times_s)


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (b'data: {"id":"a","choices":[{"delta":{"content":"x"}}]}\n\n', "ended before"),
        (b'data: {"error":{"message":"lost it"}}\n\n', "broke off: lost it"),
    ],
)
async def test_an_answer_that_breaks_off(events: bytes, error: str) -> None:
    """A stream without its end, and one with an error event, are errors."""
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> dict[str, list[dict[str, str]]]:
        return {"data": [{"id": "m"}]}

    @app.post("/v1/chat/completions")
    async def chat() -> StreamingResponse:
        return StreamingResponse(iter([events]), media_type="text/event-stream")

    async with serving(app) as url, connected(url) as client:
        with pytest.raises(CliError, match=error):
            await client.stream(ASKED)


async def test_recording_changes_nothing(make_fake: MakeFake) -> None:
    """What was given can be taken once, a reader that leaves ends the generation, the rest is passed on."""
    fake = make_fake(TEXT)
    recorder = RecordingGenerator(fake)
    request = GenerationRequest("one", (5, 6), Sampling(8))
    chunks = [chunk async for chunk in recorder.generate(request)]
    recording = recorder.take("one")
    assert tuple(recording.token_ids) == sum((chunk.token_ids for chunk in chunks), ())
    assert recording.stats.completion_tokens == len(recording.token_ids)
    with pytest.raises(KeyError):
        recorder.take("one")
    left = cast("AsyncGenerator[GenerationChunk, None]", recorder.generate(request))
    await anext(left)
    await left.aclose()
    assert fake.records[-1].closed_early
    assert await recorder.target() == await fake.target()
    await recorder.close()
    assert fake.closed


# -- slower edges ---------------------------------------------------------------------------


def fake_drafter() -> FakeDrafter:
    return FakeDrafter(lambda tokens: DraftToken(len(tokens), 0.5), [f"t{i}" for i in range(10)])


def test_a_draft_takes_at_least_gamma() -> None:
    """The drafts are the model's own, and not sooner than the pace allows; a hung edge gives none."""
    paced = PacedDrafter(fake_drafter(), 0.03)
    sequence = paced.open([1, 2])
    started_s = time.monotonic()
    assert paced.draft([sequence]) == {sequence: DraftToken(2, 0.5)}
    assert time.monotonic() - started_s >= 0.03
    hung = PacedDrafter(fake_drafter(), math.inf)
    assert [hung.draft([hung.open([1])]) for _ in range(2)] == [{}, {}]


class _Sticky(FakeDrafter):
    """As llama.cpp: an abort that finds no call running ends the next one."""

    def __init__(self) -> None:
        super().__init__(lambda tokens: DraftToken(len(tokens), 0.5), [f"t{i}" for i in range(10)])
        self._sticks = False

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        aborted, self._sticks = self._sticks, False
        return {} if aborted else super().draft(sequences)

    def request_abort(self) -> None:
        self._sticks = True


def test_an_abort_ends_the_wait_and_costs_the_next_draft_nothing() -> None:
    """A call that is being held back returns with nothing; the model, not at work, hears nothing of it."""
    paced = PacedDrafter(_Sticky(), 60.0)
    sequence = paced.open([1, 2])
    timer = threading.Timer(0.05, paced.request_abort)
    timer.start()
    assert paced.draft([sequence]) == {}
    timer.join()
    quick = PacedDrafter(_Sticky(), 0.02)
    sequence = quick.open([1, 2])
    quick.request_abort()
    assert quick.draft([sequence]) == {sequence: DraftToken(2, 0.5)}


# -- prompts --------------------------------------------------------------------------------

LINE = json.dumps({"question_id": 81, "category": "writing", "turns": ["Hello?", "And then?"]})
MATHS = json.dumps({"question_id": 2, "category": "math_reasoning", "turns": ["How many?"]})


def test_prompts_of_a_file(tmp_path: Path) -> None:
    """The first turn is the user's message; blank lines do not count; GSM8K is Spec-Bench's maths."""
    (file := tmp_path / "prompts.jsonl").write_text(f"{LINE}\n\n{MATHS}\n")
    assert load_prompts(str(file))[0] == Prompt("writing/81", "Hello?", is_chat=True)
    assert [prompt.text for prompt in load_datasets(None, file)["gsm8k"]] == ["How many?"]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", "{}", '{"question_id": 1, "category": "a", "turns": []}', LINE.replace('"H', '3, "H')],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str) -> None:
    """The message says which line of which file."""
    (file := tmp_path / "prompts.jsonl").write_text(f"{LINE}\n{line}")
    with pytest.raises(CliError, match=r"Line 2 of .*prompts"):
        load_prompts(str(file))


@pytest.mark.parametrize(("content", "reason"), [(b"", "no prompts"), (b"\xff\xfe", "not UTF-8")])
def test_useless_files(tmp_path: Path, content: bytes, reason: str) -> None:
    """Each ends in a sentence, and so does a missing one."""
    (file := tmp_path / "prompts.jsonl").write_bytes(content)
    with pytest.raises(CliError, match=reason):
        load_prompts(str(file))
    with pytest.raises(CliError, match="Cannot read prompts"):
        load_prompts(str(tmp_path / "none.jsonl"))


def test_humaneval() -> None:
    """All problems of the package, as raw completions."""
    prompts = load_prompts(HUMANEVAL)
    assert (len(prompts), prompts[0].name, prompts[0].is_chat) == (164, "HumanEval/0", False)
    assert "def has_close_elements" in prompts[0].text


def test_what_data_is_there() -> None:
    """Without Spec-Bench's file only HumanEval is run; asked for GSM8K, it says what is missing."""
    assert list(load_datasets(None, None)) == ["humaneval"]
    with pytest.raises(CliError, match="--specbench"):
        load_datasets(["gsm8k"], None)
    with pytest.raises(CliError, match="humaneval, gsm8k"):
        load_datasets(["mmlu"], None)


def test_order_of_prompts() -> None:
    """The wanted ones come first, at even distances if asked for, and none is lost."""
    prompts = [Prompt(str(i), "", is_chat=False) for i in range(6)]
    assert in_order(prompts, 2, spread=False) == prompts
    assert [p.name for p in in_order(prompts, 2, spread=True)] == ["0", "3", "1", "2", "4", "5"]
    assert in_order(prompts, 9, spread=True) == prompts


async def test_prompts_as_the_target_reads_them(make_fake: Callable[[str], FakeGenerator]) -> None:
    """Chats go through the template, raw prompts do not; a chat without a template ends in a sentence."""
    text = TargetText(await make_fake("hello").tokenizer())
    raw, chat = [await tokenised(Prompt("b", "hello", is_chat=is_chat), text) for is_chat in (False, True)]
    assert len(chat.token_ids) > len(raw.token_ids)
    assert chat.token_ids[0] == 1  # <|im_start|>
    without = TargetText(fake_tokenizer_bundle(["hello"], chat_template=None))
    with pytest.raises(CliError, match="b cannot be asked"):
        await tokenised(Prompt("b", "hello", is_chat=True), without)


async def test_prompts_that_fit(make_fake: Callable[[str], FakeGenerator]) -> None:
    """Those too long are passed over aloud, the next take their place, and a shortage is said."""
    text = TargetText(await make_fake("hello").tokenizer())
    prompts = [Prompt(f"p{i}", each, is_chat=False) for i, each in enumerate(["hello" * 40, "fox", "you"])]
    told: list[str] = []
    assert [p.name for p in await fitting(prompts, 1, text, 10, told.append)] == ["p1"]
    assert [p.name for p in await fitting(prompts, 5, text, 10, told.append)] == ["p1", "p2"]
    assert "p0: skipped" in told[0]
    assert told[-1] == "only 2 prompts were there and fit, 5 were wanted"


# -- rivals ---------------------------------------------------------------------------------

OURS = PolicyParameters(0.3, 0.35, max_ahead=16, patience_ms=500, max_window=8)


def test_rivals_by_name() -> None:
    """The literature's four on both wires, ours in three modes, each end alone; a variant with a colon."""
    labels = [rival.label for rival in parse_rivals(EVERYBODY)]
    assert len(labels) == len(set(labels)) == 2 + 4 * 2 + 4
    assert {"cloud", "local", "hsl:published", "hsl:thin", "adaptive:latency"} <= set(labels)
    assert parse_rivals(["pipesd:thin", "adaptive:offload", "pipesd:thin"]) == [
        Rival("pipesd", Wire.THIN, SessionMode.OFFLOAD),
        Rival("adaptive", Wire.THIN, SessionMode.OFFLOAD),
    ]


@pytest.mark.parametrize("name", ["fastest", "pipesd:thick", "cloud:thin", ""])
def test_unknown_rivals(name: str) -> None:
    """A name that means nobody is refused."""
    with pytest.raises(CliError, match="There is no policy"):
        parse_rivals([name])


def test_parameters_of_rivals() -> None:
    """Ours are the settings'; baselines have the literature's for the task, and room enough."""
    assert rival_parameters("adaptive", OURS, "code") is OURS
    assert rival_parameters("hsl", OURS, "code").token_threshold == 0.99
    assert rival_parameters("hsl", OURS, "maths").token_threshold == 0.7
    assert [rival_parameters("vanilla", OURS, task).max_window for task in ("code", "maths")] == [6, 4]
    assert rival_parameters("pipesd", OURS, "code").sequence_threshold == 0.9
    assert rival_parameters("edgellm", OURS, "code").max_ahead > OURS.max_ahead


def test_everybody_answers_everything_in_turn() -> None:
    """Each prompt is answered by all before the next comes, and the first place goes round per prompt."""
    rivals = [Rival(name) for name in "abc"]
    jobs = list(interleaved(3, {"humaneval": 2, "gsm8k": 1}, rivals))
    groups = [jobs[i : i + 3] for i in range(0, len(jobs), 3)]
    assert len(groups) == 3 * 3
    assert all({job.rival for job in group} == set(rivals) for group in groups)
    assert all(len({(job.number, job.seed, job.dataset, job.prompt) for job in g}) == 1 for g in groups)
    for case in (("humaneval", 0), ("humaneval", 1), ("gsm8k", 0)):
        leading = [g[0].rival.policy for g in groups if (g[0].dataset, g[0].prompt) == case]
        assert Counter(leading) == {"a": 1, "b": 1, "c": 1}
