"""Energy is measured or it is not."""

from pathlib import Path

from benchmarks.testbed.energy import find_meter, rapl_joules


def test_rapl(tmp_path: Path) -> None:
    """The counters of all packages are added up; zones within a package are not counted again."""
    for name, microjoules in (
        ("intel-rapl:0", 5_000_000),
        ("intel-rapl:1", 1_000_000),
        ("intel-rapl:0:0", 9),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
    assert rapl_joules([tmp_path / "intel-rapl:0"]) == 5.0
    meter = find_meter(tmp_path)
    assert "RAPL counter of 2" in meter.description
    assert meter.joules() is not None


def test_no_counter_no_figure(tmp_path: Path) -> None:
    """Where there is neither NVML nor RAPL the reason takes the place of a figure."""
    meter = find_meter(tmp_path)
    if meter.joules() is None:  # a machine with a GPU has a figure even so
        assert meter.description.startswith("not measured: ")
