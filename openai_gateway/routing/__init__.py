"""Chooses the route that answers a request: `collaborative`, `cloud` or `local`."""

from openai_gateway.routing.fleet import ByModel, Fleet, Listed, Member
from openai_gateway.routing.normaliser import normalise, sampling_used
from openai_gateway.routing.routes import LISTED_FOR_S, OWN_NAMES, ModelNames, asked_route
from openai_gateway.routing.service import RoutedService

__all__ = [
    "LISTED_FOR_S",
    "OWN_NAMES",
    "ByModel",
    "Fleet",
    "Listed",
    "Member",
    "ModelNames",
    "RoutedService",
    "asked_route",
    "normalise",
    "sampling_used",
]
