"""Where servers run and how they are started."""

from pathlib import Path

from benchmarks.testbed.stage import Link, Stage, far_side_process, opened_path, raised_stage, target_process


def test_without_privileges(tmp_path: Path) -> None:
    """Asked for, the proxy needs no namespace: servers run here, on loopback, and the reason is kept."""
    with raised_stage(Link.PROXY) as stage:
        assert stage == Stage(None, "asked for")
        target = target_process(stage, "a/model", ["--max-model-len", "64"], tmp_path)
        assert target.health_url.startswith("http://127.0.0.1:")
        assert "a/model" in target.command
        assert target.command[target.command.index("--max-model-len") + 1] == "64"
        far = far_side_process(stage, 8000, tmp_path)
        assert far.command[-3:][0] == "127.0.0.1"


async def test_path_of_a_stage_without_namespaces() -> None:
    """It is the proxy's."""
    async with opened_path(Stage(None, "asked for")) as path:
        assert path.server_prefix == ()
        assert "proxy" in path.description
