"""Which connections share a prefix cache."""

from vllm.entrypoints.generate.base.protocol import validate_cache_salt

from pipesd_vllm.api.tenant import cache_salt, new_secret

SECRET = b"s" * 32


def test_a_key_has_one_salt() -> None:
    """However the scheme is spelt, as for vLLM's own check; vLLM takes the salt."""
    salt = cache_salt(SECRET, "Bearer key")
    assert salt == cache_salt(SECRET, "bearer key")
    validate_cache_salt(salt)


def test_different_keys_have_different_salts() -> None:
    """Also different from that of nobody, which all share who bring no key."""
    anonymous = cache_salt(SECRET, None)
    assert anonymous == cache_salt(SECRET, "Basic dTpw")
    assert len({cache_salt(SECRET, "Bearer a"), cache_salt(SECRET, "Bearer b"), anonymous}) == 3
    assert cache_salt(SECRET, "Bearer kéy") != anonymous


def test_the_salt_is_the_servers_secret() -> None:
    """Who knows a key cannot tell its salt: each process draws its own secret."""
    first, second = new_secret(), new_secret()
    assert len(first) == 32
    assert cache_salt(first, "Bearer key") != cache_salt(second, "Bearer key")
    assert "key" not in cache_salt(first, "Bearer key")
