"""The other machine: connections to it, their upkeep, and what it serves."""

from edge_agent.verifier.connection import CloudConnection, ConnectionPool
from edge_agent.verifier.http import CloudApi
from edge_agent.verifier.keepalive import Keepalive
from edge_agent.verifier.link_probe import probe_link
from edge_agent.verifier.network import proxy_of, trusting
from edge_agent.verifier.retry import RetryPolicy, RetryTimeoutConnector
from edge_agent.verifier.target import ServedTarget, check_pairing, check_same_target
from edge_agent.verifier.transport import Connector, Transport
from edge_agent.verifier.websocket import WebSocketConnector

__all__ = [
    "CloudApi",
    "CloudConnection",
    "ConnectionPool",
    "Connector",
    "Keepalive",
    "RetryPolicy",
    "RetryTimeoutConnector",
    "ServedTarget",
    "Transport",
    "WebSocketConnector",
    "check_pairing",
    "check_same_target",
    "probe_link",
    "proxy_of",
    "trusting",
]
