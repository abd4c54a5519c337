"""Files of what verifiers answered."""

from pathlib import Path

from edge_agent.verifier.cache import FingerprintAnswer, InfoAnswer, TargetCache


def info(model: str = "org/model:1", sha256: str = "ab" * 32) -> InfoAnswer:
    return InfoAnswer(model, 9, 3, FingerprintAnswer(3, sha256))


def test_each_target_and_each_server_has_its_file(tmp_path: Path) -> None:
    """Names are made from what a server says, and stay inside the folder all the same."""
    cache = TargetCache(tmp_path)
    files = {
        cache.info_file("http://a"),
        cache.info_file("http://b"),
        cache.tokenizer_file(info()),
        cache.tokenizer_file(info(sha256="cd" * 32)),
        cache.tokenizer_file(info("../../etc/passwd")),
    }
    assert len(files) == 5
    assert {file.parent for file in files} == {tmp_path}


def test_a_disk_that_takes_nothing_costs_the_copy_only(tmp_path: Path) -> None:
    """Whoever asks has the answer already."""
    (tmp_path / "occupied").write_bytes(b"")
    cache = TargetCache(tmp_path / "occupied")
    cache.keep(cache.info_file("http://a"), b"data")
    assert (tmp_path / "occupied").read_bytes() == b""
