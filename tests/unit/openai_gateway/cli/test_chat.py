"""`pipesd chat`: a conversation through a real gateway on a fake agent."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import msgspec
import pytest
import uvicorn
from rich.console import Console

from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator
from openai_gateway.app import create_app
from openai_gateway.cli.chat import Conversation, base_url, summary
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.processes import bind_listener, free_port

Connect = Callable[[FakeGenerator, Console], AbstractContextManager[Conversation]]


@pytest.fixture
def connect() -> Connect:
    """`connect(generator, out)`: a conversation with a gateway on `generator`."""

    @contextmanager
    def make(generator: FakeGenerator, out: Console) -> Iterator[Conversation]:
        app = create_app(generator, api_key="key")
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        with bind_listener("127.0.0.1", 0) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                with Conversation.connect(
                    url, "key", max_tokens=64, temperature=0.0, out=out
                ) as conversation:
                    yield conversation
            finally:
                server.should_exit = True
                thread.join()

    return make


@pytest.fixture
def out() -> Console:
    return Console(file=io.StringIO(), width=200, highlight=False)


def written(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_answer_and_figures(
    connect: Connect, out: Console, generator_for: Callable[..., FakeGenerator]
) -> None:
    """The answer is printed as it comes, then a line with the figures of the `pipesd` object."""
    with connect(generator_for("hello [world]", chunk_tokens=3), out) as conversation:
        assert conversation.model == "org/target"
        assert conversation.ask("hi") == "hello [world]"
    answer, figures = written(out).splitlines()
    assert answer == "hello [world]"
    parts = figures.split(" · ")
    names = ["TTFT ", "TPT ", "acceptance ", "", "route "]
    assert all(part.startswith(name) for part, name in zip(parts, names, strict=True))
    assert parts[2] == "acceptance 100%"
    assert parts[3].endswith(" passes/token")
    assert parts[4] == "route collaborative (default)"


def test_turns_are_remembered_until_starting_over(
    connect: Connect, out: Console, generator_for: Callable[..., FakeGenerator]
) -> None:
    """Each turn sends those before it; `start_over` forgets them."""
    generator = generator_for("you")
    with connect(generator, out) as conversation:
        for text in ("one", "two"):
            conversation.ask(text)
        conversation.start_over()
        conversation.ask("three")
    prompts = [str(body["messages"]) for _, body in generator.forwarded]
    assert [[text in prompt for text in ("one", "you", "two", "three")] for prompt in prompts] == [
        [True, False, False, False],
        [True, True, True, False],
        [False, False, False, True],
    ]


def test_instructions_stay_in_front(
    connect: Connect, out: Console, generator_for: Callable[..., FakeGenerator]
) -> None:
    """What `--system` says comes first, after starting over, too."""
    generator = generator_for("you")
    with connect(generator, out) as conversation:
        instructed = Conversation(conversation._client, "default", out=out, system="brief", max_tokens=3)
        for _ in range(2):
            instructed.ask("hi")
            instructed.start_over()
    for _, body in generator.forwarded:
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert body["max_tokens"] == 3


def test_a_failure_in_the_middle(
    connect: Connect, out: Console, generator_for: Callable[..., FakeGenerator]
) -> None:
    """An answer that breaks off is one sentence, and the turn is not remembered."""
    broken = generator_for("hello world", error=CloudUnreachable("the server is gone"), error_after=1)
    with connect(broken, out) as conversation:
        with pytest.raises(CliError, match="cut off: the server is gone"):
            conversation.ask("hi")
        with pytest.raises(CliError, match="cut off"):
            conversation.ask("again")
    second = [message["content"] for message in broken.forwarded[1][1]["messages"]]
    assert "again" in second
    assert "hi" not in second


def test_a_wrong_key(connect: Connect, generator_for: Callable[..., FakeGenerator], out: Console) -> None:
    """What the gateway refuses is told in its own words."""
    with connect(generator_for(), out) as conversation:
        url = conversation.url
        with pytest.raises(CliError, match="The gateway refused: Incorrect or missing API key"):
            Conversation.connect(url, "wrong", max_tokens=1, temperature=0.0)


def test_nothing_listens() -> None:
    """Without a gateway: how to start one."""
    with pytest.raises(CliError, match="start one with `pipesd up`"):
        Conversation.connect(f"http://127.0.0.1:{free_port()}/v1", "key", max_tokens=1, temperature=0.0)


def test_summary_leaves_out_what_is_unknown() -> None:
    """Figures that a route does not have are not shown."""
    assert summary({"ttft_ms": 12.3, "tpt_ms": None, "route": "local"}) == "TTFT 12 ms · route local"
    away = {"route": "local", "reason": "verifier out of reach"}
    assert summary(away) == "route local (verifier out of reach)"
    assert summary({}) == ""


def test_thoughts_are_shown(
    connect: Connect, out: Console, generator_for: Callable[..., FakeGenerator]
) -> None:
    """A model that thinks does not look hung; its thoughts are no part of the answer."""
    generator = generator_for()
    events = [
        {"choices": [{"index": 0, "delta": {"reasoning": "hm [so]"}}]},
        {"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}]},
    ]
    data = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)
    generator.cloud = lambda path, body: FakeForwardedAnswer(200, [data + b"data: [DONE]\n\n"])
    with connect(generator, out) as conversation:
        assert conversation.ask("hi") == "yes"
    assert written(out).startswith("hm [so]\n\nyes\n")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:8650", "http://127.0.0.1:8650/v1"),
        ("http://box:1/", "http://box:1/v1"),
        ("https://box/pipesd/v1/", "https://box/pipesd/v1"),
    ],
)
def test_urls_are_completed(given: str, url: str) -> None:
    """Scheme and /v1 may be left out."""
    assert base_url(given) == url


@pytest.mark.parametrize("given", ["ftp://box", "http://", "box:port", "http://box:99999", "http://[::1"])
def test_what_is_no_url(given: str) -> None:
    """One sentence, before anything is asked."""
    with pytest.raises(CliError, match="is not the URL of a gateway"):
        base_url(given)
