"""Names of namespaces say whose they are."""

from benchmarks.netlink.namespaces import is_stale


def test_only_those_of_the_dead_are_stale() -> None:
    """Neither foreign namespaces nor those of a run under way are touched."""
    names = ["pipesd-7-1-edge", "pipesd-8-1-server", "docker-7", "pipesd-x-1-edge"]
    assert [is_stale(name, lambda pid: pid == 8) for name in names] == [True, False, False, False]
