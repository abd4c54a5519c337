from __future__ import annotations

import pytest

from openai_gateway.errors import InvalidRequest, UnsupportedParameter
from openai_gateway.translation.parameters import rest_of, with_own_names


def test_what_asks_for_nothing_is_dropped_and_the_rest_kept() -> None:
    """Ignored names, neutral values and nulls go; what the chat service may know stays."""
    extra = {"user": "u", "background": False, "prompt": None, "top_k": 4}
    assert rest_of(extra, ignored={"user"}, neutral={"background": (False,), "prompt": ()}) == {"top_k": 4}


@pytest.mark.parametrize("value", [True, 0, "no"])
def test_what_asks_for_something_is_refused_by_name(value: object) -> None:
    """A value that is not neutral is refused, and 0 is not false."""
    with pytest.raises(UnsupportedParameter, match="'background'") as caught:
        rest_of({"background": value}, ignored=(), neutral={"background": (False,)})
    assert caught.value.param == "background"


def test_errors_speak_of_the_clients_own_parameters() -> None:
    """Message and `param` of an error of the chat API name the parameter that the client sent."""
    error = InvalidRequest("Invalid 'messages[0].role': no.", param="messages[0].role", code="invalid_value")
    own = with_own_names(error, {"messages": "input"})
    assert (own.message, own.param, own.status) == ("Invalid 'input[0].role': no.", "input[0].role", 400)
    assert own.code == "invalid_value"
