"""Chooses the route that answers a request: `collaborative`, `cloud` or `local`."""

from openai_gateway.routing.routes import asked_route, check_model, full_name, served_names
from openai_gateway.routing.service import RoutedService

__all__ = [
    "RoutedService",
    "asked_route",
    "check_model",
    "full_name",
    "served_names",
]
