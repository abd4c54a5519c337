"""What both channels to a server share: certificates that are trusted, and proxies."""

from __future__ import annotations

import ssl
import urllib.request
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from edge_agent.errors import ConfigError

__all__ = ["proxy_of", "trusting"]


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

    A server on this machine is never reached through one.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    named = urllib.request.getproxies()
    return named.get(parts.scheme) or named.get("all")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
