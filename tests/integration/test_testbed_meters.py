"""What the testbed reads from the real server."""

from benchmarks.harness.clients import connected
from benchmarks.testbed.meters import Meters
from tests.conftest import Verifier


async def test_meters_read_the_server(verifier: Verifier) -> None:
    """The metrics that figures are made of exist in this vLLM, and both sides' memory is known."""
    async with connected(verifier.base_url, kept=False) as server:
        reading = await Meters(server, verifier.process.pid).read()
    assert reading.engine_steps >= 0
    assert reading.plain_busy_s >= 0
    assert reading.server_rss_mb is not None
    assert reading.server_rss_mb > 100
    assert reading.edge_rss_mb > 100
