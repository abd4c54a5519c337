"""What both channels to a server share: certificates that are trusted, and proxies."""

from __future__ import annotations

import ssl
import urllib.request
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from edge_agent.errors import ConfigError

__all__ = ["proxy_of", "trusting"]

_NEEDED: Final = {
    "http": (),
    "https": (),
    "socks5": ("socksio", "python_socks"),
    "socks5h": ("socksio", "python_socks"),
}
"""Kinds of proxies, and the packages that httpx and websockets want for each."""


def trusting(ca_file: Path | None) -> ssl.SSLContext | None:
    """Trusts the certificates of `ca_file` (PEM) beside the usual ones; None without one: the usual ones.

    Raises `ConfigError`.
    """
    if ca_file is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:  # `ssl.SSLError` is one
        raise ConfigError(f"ca_file: {ca_file} is no file of certificates in PEM form ({error})") from error
    return context


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for `url`: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`.

    A server on this machine is never reached through one. A name without a scheme is an http proxy's.
    Raises `ConfigError` for a kind of proxy that cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    named = urllib.request.getproxies()
    proxy = named.get(parts.scheme) or named.get("all")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    kind = urlsplit(proxy).scheme
    missing = [name for name in _NEEDED.get(kind, ()) if find_spec(name) is None]
    if kind not in _NEEDED or missing:
        lacking = f" without {' and '.join(missing)}" if missing else ""
        raise ConfigError(
            f"The environment names a {kind} proxy for {url}, which cannot be used{lacking}: "
            f"put {host} into NO_PROXY to reach it directly, or name an http proxy."
        )
    return proxy


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
