"""Which requests a gateway without a key answers: none that a foreign web page can make (docs/security.md).

Every browser on the machine reaches a gateway on loopback, and whoever reaches one without a key uses its
owner's key to the verifier. So the gateway believes what browsers themselves write into a request and pages
cannot change:

- `Host`, against DNS rebinding: a page whose name is made to mean 127.0.0.1 still asks for its own name.
- `Origin`, which comes with every POST of a page (a form and a `text/plain` fetch, which need no
  preflight, included) and with every fetch whose answer the page could read.
- `Sec-Fetch-Site`, for the requests that have no `Origin`: images, scripts, frames, links.

Programs send neither of the last two, and are answered. With a key this check is not needed: a page that does
not know the key gets a 401, under whatever name it comes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent import EdgeSettings
from edge_agent.errors import ConfigError
from openai_gateway.errors import ApiError, HostNotAllowed, OriginNotAllowed, shown

__all__ = ["ANY_ORIGIN", "LOOPBACK_ONLY", "AccessPolicy", "BrowserGuard", "Cors", "access_policy", "risks"]

logger = logging.getLogger(__name__)

PAGE_PATH: Final = "/"
ANY_ORIGIN: Final = "*"
NULL_ORIGIN: Final = "null"
"""What a browser writes for a page without an origin. Any website can make one (a sandboxed frame), so it is
as good as `*`. A local file that is opened in a browser has it, too."""
_APP_SCHEMES: Final = frozenset({"app", "file", "tauri", "vscode-file", "vscode-webview"})
"""Of pages inside installed programs; no website can have them. Ollama trusts the same ones by default.
Browsers never send `file://` (see `NULL_ORIGIN`), programs with a browser inside do. Extensions of browsers
are not among them: there are too many that nobody looks at."""
_WEB_PORTS: Final = {"http": ":80", "https": ":443"}

_AUTHORITY: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s\\/?#@:,\[\]]+))(?::\d{1,5})?")
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^\s\\/?#@,]*)")

_PRIVATE_NETWORK: Final = {
    "access-control-request-private-network": "access-control-allow-private-network",
    "access-control-request-local-network": "access-control-allow-local-network",
}
"""Asked and answered in preflights of a public page for a private address. The first pair is that of Private
Network Access (wicg.github.io/private-network-access, 3.1), which was called Local Network Access for some
months of 2023, with the second pair. Today's Local Network Access (wicg.github.io/local-network-access) has
the browser ask its user, and no header."""

_MOST_TOLD: Final = 64


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Hosts and origins that a gateway answers to beyond the loopback ones. Names are in lower case."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    """`scheme://host[:port]`, or `scheme://*` for all of a scheme that is not the web's. `*` means something
    only with a key."""
    any_address: bool = False
    """The gateway listens on all addresses, so that any IP address may be one of its own. An address, unlike
    a name, cannot be rebound."""

    def refusal(self, method: str, path: str, headers: Headers) -> ApiError | None:
        """Why a gateway without a key does not answer this request; None: it does."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        # Browsers always send one Host. Without any this is an HTTP/1.0 client, such as a health check.
        if len(hosts) > 1 or not all(self.allows_host(host) for host in hosts if host):
            return HostNotAllowed(shown(", ".join(hosts)))
        if origins:
            if len(origins) == 1 and (_is_own(origins[0], hosts) or self.allows_origin(origins[0])):
                return None
            return OriginNotAllowed(shown(", ".join(origins)))
        if "cross-site" in headers.getlist("sec-fetch-site") and not _follows_link(method, path, headers):
            return OriginNotAllowed(None)
        return None

    def allows_host(self, authority: str) -> bool:
        """Whether `authority`, a Host header's value, names this gateway."""
        host = _host(authority)
        if host is None:
            return False
        return _is_loopback(host) or host in self.hosts or (self.any_address and _address(host) is not None)

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of `origin`, a header's value, may use the gateway and read its answers."""
        parsed = _ORIGIN.fullmatch(origin.lower())
        if parsed is None:  # "null" among others
            return origin in self.origins
        scheme, authority = parsed.groups()
        if scheme in _WEB_PORTS:
            host = _host(authority)
            if host is not None and _is_loopback(host):
                return True
        elif scheme in _APP_SCHEMES or f"{scheme}://*" in self.origins:
            return True
        return _origin(origin) in self.origins


LOOPBACK_ONLY: Final = AccessPolicy()


class BrowserGuard:
    """ASGI middleware: answers a request that `policy` refuses with the error that `render` makes of it.

    It belongs around everything else, CORS included: a refused preflight is refused, too.
    """

    def __init__(
        self, app: ASGIApp, policy: AccessPolicy, render: Callable[[str, ApiError], Response]
    ) -> None:
        """`render(path, error)`: the error in the shape of the protocol that `path` belongs to."""
        self._app = app
        self._policy = policy
        self._render = render
        self._told: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `AccessPolicy.refusal`."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._policy.refusal(scope.get("method", "GET"), scope["path"], Headers(scope=scope))
        if refused is None:
            await self._app(scope, receive, send)
            return
        self._tell(refused.message)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refused.code})
        else:
            await self._render(scope["path"], refused)(scope, receive, send)

    def _tell(self, message: str) -> None:
        """Log `message` the first time: a page can ask as often, and under as many names, as it likes."""
        if message not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(message)
            logger.warning("refused a request: %s", message)


class Cors(CORSMiddleware):
    """Lets pages of the origins that `policy` allows read answers; with `any_origin` all pages."""

    def __init__(
        self, app: ASGIApp, policy: AccessPolicy, *, any_origin: bool, expose_headers: tuple[str, ...]
    ) -> None:
        super().__init__(
            app,
            allow_origins=[ANY_ORIGIN] if any_origin else [],
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=expose_headers,
        )
        self._policy = policy

    def is_allowed_origin(self, origin: str) -> bool:
        """See `AccessPolicy.allows_origin`."""
        return super().is_allowed_origin(origin) or self._policy.allows_origin(origin)

    def preflight_response(self, request_headers: Headers) -> Response:
        """As the base class answers; a page that it allows may also come from a public network."""
        asked = [name for name in _PRIVATE_NETWORK if request_headers.get(name) == "true"]
        # Some versions of the base class refuse what others do not know.
        raw = [(name, value) for name, value in request_headers.raw if name.decode() not in asked]
        response = super().preflight_response(Headers(raw=raw))
        if response.status_code == 200:
            response.headers.update({_PRIVATE_NETWORK[name]: "true" for name in asked})
        return response


def access_policy(settings: EdgeSettings, address: str) -> AccessPolicy:
    """The policy of a gateway that listens on the IP address (or at the name) `address`.

    Raises `ConfigError` for hosts and origins that are none, and for what is not safe without a key.
    """
    origins = frozenset(_checked_origin(origin) for origin in settings.allow_origins)
    hosts = frozenset(_checked_host(host) for host in settings.allowed_hosts)
    if not (settings.gateway_api_key or settings.gateway_api_keys_file):
        if unsafe := origins & {ANY_ORIGIN, NULL_ORIGIN}:
            raise ConfigError(
                f"allow_origins: {min(unsafe)!r} lets any web page use this gateway: set "
                "PIPESD_GATEWAY_API_KEY (or --gateway-api-key), or name the origins, such as https://chat.example.org."
            )
        if not (_is_loopback(address) or settings.unix_socket or settings.allow_keyless_network):
            raise ConfigError(
                f"The gateway has no key, and other machines reach it on {settings.listen_host}: set "
                "PIPESD_GATEWAY_API_KEY (or --gateway-api-key), or pass --allow-keyless-network if all who "
                "reach it may use it."
            )
    own = {_host(name if ":" not in name else f"[{name}]") for name in (settings.listen_host, address)}
    parsed = _address(address)
    return AccessPolicy(
        hosts | {host for host in own if host},
        origins,
        any_address=parsed is not None and parsed.is_unspecified,
    )


def risks(settings: EdgeSettings) -> list[str]:
    """What is unsafe about where the gateway would listen with `settings`, a sentence each."""
    try:
        access_policy(settings, settings.listen_host)
    except ConfigError as error:
        return [f"The gateway would not start. {error}"]
    if _is_loopback(settings.listen_host) or settings.unix_socket is not None:
        return []
    if settings.gateway_api_key or settings.gateway_api_keys_file:
        if settings.tls_cert is not None:
            return []
        return [
            f"The gateway's key and all texts cross the network of {settings.listen_host} unencrypted: give "
            "it a certificate (--tls-cert), or put a proxy with TLS in front of it."
        ]
    return [
        f"All who reach {settings.listen_host} may use the gateway, and with it your key to the server: set "
        "PIPESD_GATEWAY_API_KEY."
    ]


def _follows_link(method: str, path: str, headers: Headers) -> bool:
    """Whether the user follows a link to the page; the site with the link gets to read nothing."""
    goes = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return goes and method == "GET" and path == PAGE_PATH


def _is_own(origin: str, hosts: list[str]) -> bool:
    """Whether the page came from this gateway, perhaps through a proxy that speaks TLS."""
    scheme, _, authority = origin.partition("://")
    return scheme in _WEB_PORTS and authority != "" and hosts == [authority]


def _host(authority: str) -> str | None:
    """The host of `host[:port]`: lower case, no brackets, no final dot, IP addresses in their usual form."""
    parsed = _AUTHORITY.fullmatch(authority.lower())
    if parsed is None:
        return None
    bracketed, name = parsed.groups()
    address = _address(bracketed or name)
    if address is None:
        return name.removesuffix(".") if name else None
    return str(address)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """`host` as an IP address, an IPv4 one that is written as IPv6 as itself; None: it is a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3: of this machine, always


def _origin(origin: str) -> str:
    """`origin` as browsers write it: lower case, without its scheme's own port."""
    origin = origin.strip().lower()
    return origin.removesuffix(_WEB_PORTS.get(origin.partition("://")[0], ""))


def _checked_origin(given: str) -> str:
    origin = _origin(given)
    if origin in (ANY_ORIGIN, NULL_ORIGIN):
        return origin
    parsed = _ORIGIN.fullmatch(origin)
    scheme, authority = parsed.groups() if parsed else ("", "")
    if not parsed or (scheme in _WEB_PORTS and _host(authority) in (None, "*")):
        raise ConfigError(
            f"allow_origins: {given!r} is not an origin: write it like https://chat.example.org, with its "
            "port if it has one and without a path, or like chrome-extension://* for all of a scheme."
        )
    return origin


def _checked_host(given: str) -> str:
    host = _host(given.strip())
    if host is None or "*" in host:
        raise ConfigError(
            f"allowed_hosts: {given!r} is not a host: write the name alone, such as host.docker.internal."
        )
    return host
