"""One target gives a whole answer: the server is replaced by another at each step of one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec
import pytest

from edge_agent.api import Fallback, GenerationRequest, Sampling, SessionMode
from edge_agent.control import FixedParameters, PolicyParameters
from edge_agent.drafting import DraftThread
from edge_agent.errors import CloudUnreachable, PairingError, TargetChanged
from edge_agent.sampling import DraftToken
from edge_agent.session import CollaborativeSession, ControlPlane
from edge_agent.testing import FakeDrafter, FakeTransport, fake_welcome
from edge_agent.tracing import NullRecorder
from edge_agent.verifier import ConnectionPool, check_pairing, check_same_target
from edge_agent.verifier.cache import decode_info
from pipesd_vllm.wire import Downstream, Identity, Upstream, Welcome, fingerprint

from ..conftest import VOCABULARY, target_next, target_text
from .conftest import HastyLoop

LOOP = HastyLoop
PROMPT = (5, 17, 42)
NUM_TOKENS = 20
PARAMETERS = PolicyParameters(0.3, 0.2, max_ahead=12, patience_ms=500, max_window=4)
IDENTITY = Identity("hub:1", "bfloat16", "auto", "", "0.32.0", "v1", "template", "hermes", "qwen3")
WELCOME = msgspec.structs.replace(fake_welcome(fingerprint(VOCABULARY)), identity=IDENTITY)
OTHER_WEIGHTS = msgspec.structs.replace(WELCOME, identity=msgspec.structs.replace(IDENTITY, weights="hub:2"))
OTHER_NAME = msgspec.structs.replace(WELCOME, model="successor", identity=None)
OTHER_VOCABULARY = fake_welcome(fingerprint([*VOCABULARY[:-1], "other"]))


def other_next(tokens: Sequence[int]) -> int:
    return (11 * len(tokens) + 5 * tokens[-1] + tokens[0]) % 100


def other_text() -> list[int]:
    tokens = list(PROMPT)
    for _ in range(NUM_TOKENS):
        tokens.append(other_next(tokens))
    return tokens[len(PROMPT) :]


class Server:
    """Restarts as `successor` at step `restart_at`; its first connection breaks after three commits.

    A step is whatever an edge does with it: to connect, to send a frame, to receive one.
    """

    def __init__(self, restart_at: int, first: Welcome, successor: Welcome) -> None:
        self.num_steps = 0
        self._restart_at = restart_at
        self._first, self._successor = first, successor
        self._lines: list[Line] = []
        self._num_lines = 0

    @property
    def restarted(self) -> bool:
        return self.num_steps >= self._restart_at

    async def connect(self) -> FakeTransport:
        self.step()
        welcome, next_token = (self._successor, other_next) if self.restarted else (self._first, target_next)
        breaks_after = -1 if self._num_lines else 3
        self._num_lines += 1
        line = Line(self, next_token, welcome, commits_before_loss=breaks_after)
        self._lines.append(line)
        return line

    def step(self) -> None:
        self.num_steps += 1
        if self.num_steps == self._restart_at:
            lines, self._lines = self._lines, []
            for line in lines:
                line.lose()


class Line(FakeTransport):
    def __init__(self, server: Server, *arguments: object, commits_before_loss: int) -> None:
        super().__init__(*arguments, commits_before_loss=commits_before_loss)  # type: ignore[arg-type]
        self._server = server
        self._lost = False

    def lose(self) -> None:
        self._lost = True
        self.push(CloudUnreachable("the server went away"))

    @property
    def is_open(self) -> bool:
        return not self._lost and super().is_open

    async def send(self, message: Upstream) -> int:
        self._server.step()
        if self._lost:
            raise CloudUnreachable("the server went away")
        return await super().send(message)

    async def receive(self) -> tuple[Downstream, int]:
        received = await super().receive()
        self._server.step()
        return received


async def answer(server: Server, mode: SessionMode, fallback: Fallback) -> tuple[list[int], Exception | None]:
    """The tokens that came from the server, and what ended them early."""

    def draft(tokens: Sequence[int]) -> DraftToken:
        right = target_next(tokens)
        return DraftToken((right + 1) % 100 if len(tokens) % 5 == 0 else right, 0.9)

    worker = DraftThread(FakeDrafter(draft, VOCABULARY))

    async def check(welcome: Welcome) -> None:
        fits = await worker.run(lambda drafter: drafter.fingerprint(welcome.fingerprint.num_tokens))
        check_pairing("fake", fits, welcome)

    pool = ConnectionPool(server, check, 1.0)
    plane = ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), time.monotonic)
    control = plane.start_session("r", len(PROMPT), "adaptive", mode)
    request = GenerationRequest("r", PROMPT, Sampling(NUM_TOKENS))
    session = CollaborativeSession(
        request, pool, worker, lambda: control, time.monotonic, fallback=fallback, draw=lambda: 0.0
    )
    tokens: list[int] = []
    try:
        async for chunk in session.run():
            tokens += chunk.token_ids
    except (CloudUnreachable, PairingError) as error:
        return tokens, error
    finally:
        await pool.close()
        await worker.close()
    return tokens, None


@pytest.mark.parametrize("fallback", [Fallback.WAIT, Fallback.ERROR])
@pytest.mark.parametrize("mode", [SessionMode.OFFLOAD, SessionMode.LATENCY])
@pytest.mark.parametrize(
    "successor", [OTHER_WEIGHTS, OTHER_NAME, OTHER_VOCABULARY], ids=["weights", "name", "vocabulary"]
)
async def test_no_restart_mixes_two_targets(
    successor: Welcome, mode: SessionMode, fallback: Fallback
) -> None:
    """Whichever step meets the successor: whole from one target, or cut short with the reason."""
    servers = [Server(step, WELCOME, successor) for step in range(1, 49)]
    answers = await asyncio.gather(*(answer(server, mode, fallback) for server in servers))
    texts = target_text(PROMPT, NUM_TOKENS), other_text()
    num_changed = 0
    for tokens, error in answers:
        assert any(text[: len(tokens)] == tokens for text in texts)
        if error is None:
            assert len(tokens) == NUM_TOKENS
        else:
            assert isinstance(error, TargetChanged if tokens else PairingError | CloudUnreachable)
        num_changed += bool(tokens) and isinstance(error, TargetChanged)
    assert num_changed >= 5  # the steps do lie in the middle of answers


async def test_the_same_target_goes_on_under_another_name() -> None:
    """A restart costs nothing when weights, precision, software and templates are the same."""
    renamed = msgspec.structs.replace(WELCOME, model="same-model-another-name")

    class Same(Server):
        async def connect(self) -> FakeTransport:
            self.step()
            line = Line(self, target_next, renamed if self.restarted else WELCOME, commits_before_loss=-1)
            self._lines.append(line)
            return line

    servers = [Same(step, WELCOME, renamed) for step in range(3, 19)]
    answers = await asyncio.gather(
        *(answer(server, SessionMode.OFFLOAD, Fallback.ERROR) for server in servers)
    )
    assert all(each == (target_text(PROMPT, NUM_TOKENS), None) for each in answers)


@pytest.mark.parametrize("field", Identity.__struct_fields__)
def test_every_part_of_an_identity_counts(field: str) -> None:
    """Another value of any field is another target, and the error names the field."""
    changed = msgspec.structs.replace(IDENTITY, **{field: "changed"})
    with pytest.raises(TargetChanged, match=rf"other {field}\)"):
        check_same_target(WELCOME, msgspec.structs.replace(WELCOME, identity=changed))
    check_same_target(WELCOME, msgspec.structs.replace(WELCOME, identity=msgspec.structs.replace(IDENTITY)))


def test_servers_that_tell_no_identity_are_compared_by_name_and_vocabulary() -> None:
    """An older server on either side of the restart: what was compared before identities were told."""
    old = msgspec.structs.replace(WELCOME, identity=None)
    for began, now in [(old, old), (old, WELCOME), (WELCOME, old)]:
        check_same_target(began, now)
        with pytest.raises(TargetChanged, match=r"other model"):
            check_same_target(began, msgspec.structs.replace(now, model="successor"))
        with pytest.raises(TargetChanged, match=r"other vocabulary"):
            check_same_target(began, msgspec.structs.replace(now, fingerprint=fingerprint(["x"])))


@pytest.mark.parametrize("tells", [True, False])
def test_the_info_answer_describes_a_connection_of_the_same_identity(tells: bool) -> None:
    """What is remembered of a target holds until its identity changes; not told, by name and vocabulary."""
    told = {
        "model": WELCOME.model,
        "max_model_len": WELCOME.max_model_len,
        "vocab_size": WELCOME.vocab_size,
        "fingerprint": msgspec.to_builtins({"num_tokens": 100, "sha256": WELCOME.fingerprint.sha256}),
        **({"identity": msgspec.to_builtins(IDENTITY)} if tells else {}),
    }
    info = decode_info(msgspec.json.encode(told))
    assert info.describes(WELCOME)
    assert info.describes(OTHER_WEIGHTS) is not tells
    assert not info.describes(OTHER_NAME)
