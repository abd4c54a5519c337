"""Only the vLLM this plugin was built for is accepted."""

import pytest

from pipesd_vllm.compat import UnsupportedVllmError, check_version, installed_version


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.32.0", "0.3"])
def test_other_versions_are_refused_by_name(version: str) -> None:
    """The refusal names both versions."""
    with pytest.raises(UnsupportedVllmError) as caught:
        check_version(version)
    assert version in str(caught.value)
    assert "0.32" in str(caught.value)


def test_the_installed_version_is_accepted() -> None:
    """The vLLM of this environment is in the supported range, patch releases included."""
    check_version(installed_version())
    check_version("0.32.1+cpu")
