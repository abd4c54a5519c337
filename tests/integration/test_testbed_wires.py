"""The testbed's rivals on the real server, without an emulated link."""

from urllib.parse import urlsplit

from benchmarks.harness.rivals import parse_rivals
from benchmarks.testbed.contestants import contestants
from benchmarks.wire.far_side import start_far_side
from benchmarks.wire.padded import PUBLISHED_TOKEN_BYTES
from edge_agent.settings import load_settings
from tests.conftest import Verifier

NAMES = ["cloud", "local", "pipesd:published", "vanilla:thin", "adaptive:offload"]
PROMPT = "def fibonacci(n):\n    "
NUM_TOKENS = 12


async def test_every_wire_gives_the_servers_text(verifier: Verifier) -> None:
    """All rivals give the text of plain streaming; on the published wire each draft token weighs in full."""
    server_port = urlsplit(verifier.base_url).port
    assert server_port is not None
    flags = {"cloud_url": verifier.base_url, "api_key": verifier.api_key, "draft": verifier.draft}
    async with await start_far_side("127.0.0.1", 0, server_port) as far:
        far_address = f"127.0.0.1:{next(iter(far.sockets)).getsockname()[1]}"
        async with contestants(load_settings(flags), parse_rivals(NAMES), far_side=far_address) as ready:
            prompt = await next(iter(ready.values())).pair.text.encode_prompt(PROMPT)
            answers = {
                rival.label: await contestant.answer(rival.way, "code", prompt, NUM_TOKENS)
                for rival, contestant in ready.items()
            }
    assert {answer.num_tokens for answer in answers.values()} == {NUM_TOKENS}
    assert len({answer.text for label, answer in answers.items() if label != "local"}) == 1
    published = answers["pipesd:published"]
    assert published.stats is not None
    assert published.stats.uplink_draft_bytes > PUBLISHED_TOKEN_BYTES * published.stats.draft_tokens_sent > 0
    thin = answers["vanilla:thin"]
    assert thin.stats is not None
    assert thin.stats.uplink_draft_bytes < 1000
