"""What the testbed reads from the real server."""

from benchmarks.testbed.energy import EnergyMeter
from benchmarks.testbed.meters import Meters
from tests.conftest import Verifier


async def test_meters_read_the_server(verifier: Verifier) -> None:
    """The metrics that figures are made of exist in this vLLM, and both sides' memory is known."""
    meters = Meters(verifier.base_url, verifier.process.pid, EnergyMeter("none"))
    try:
        reading = await meters.read()
    finally:
        await meters.close()
    assert reading.engine_steps >= 0
    assert reading.plain_busy_s >= 0
    assert reading.server_rss_mb is not None
    assert reading.server_rss_mb > 100
    assert reading.edge_rss_mb is not None
    assert reading.energy_j is None
