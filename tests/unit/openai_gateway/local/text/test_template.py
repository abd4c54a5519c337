from __future__ import annotations

from datetime import UTC, datetime

import pytest

from edge_agent.testing import CHAT_ML
from openai_gateway.errors import InvalidRequest
from openai_gateway.local.text.template import ChatTemplate

USER = {"role": "user", "content": "hi"}
PARTS_ONLY = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
BOTH = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
)


def render(source: str, **variables: object) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render([USER], variables)


def test_chat_ml() -> None:
    """A ChatML template renders the turns and opens the assistant's."""
    messages = [{"role": "system", "content": "be brief"}, USER]
    assert ChatTemplate(CHAT_ML, {}).render(messages) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>hi"),
        ("{{ eos_token }}|{{ tools is none }}|{{ documents is none }}", "|True|True"),
        ("{{ {'a': '<b>é'} | tojson }}", '{"a": "<b>é"}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% for i in [1, 2] %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "2"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
        ("a{% generation %}b{{ messages[0].content }}{% endgeneration %}c", "abhic"),
        ("{{ enable_thinking }}", "False"),
    ],
)
def test_conventions(source: str, expected: str) -> None:
    """Templates find what transformers gives them: tokens, filters, loop controls, white space rules."""
    assert render(source, enable_thinking=False) == expected


def test_the_date_comes_from_the_clock() -> None:
    """`strftime_now` formats the injected time."""
    template = ChatTemplate(
        "{{ strftime_now('%d %b %Y') }}", {}, now=lambda: datetime(2024, 7, 26, tzinfo=UTC)
    )
    assert template.render([USER]) == "26 Jul 2024"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].nothing.more }}", "nothing"),
        ("{{ 'a' + 1 }}", "str"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__ }}", "__class__"),
    ],
)
def test_refusals_keep_the_templates_words(source: str, words: str) -> None:
    """What a template raises, or must not do, is a 400 with the reason."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        render(source)
    assert caught.value.param == "messages"


def test_broken_template() -> None:
    """A template that does not compile says so."""
    with pytest.raises(InvalidRequest, match="broken"):
        ChatTemplate("{% if %}", {})


@pytest.mark.parametrize(
    ("source", "takes_text", "takes_parts"),
    [(CHAT_ML, True, False), (PARTS_ONLY, False, True), (BOTH, True, True)],
)
def test_content_forms(source: str, takes_text: bool, takes_parts: bool) -> None:
    """It is found out by trying which forms of content a template shows as text."""
    template = ChatTemplate(source, {})
    assert (template.takes_text, template.takes_parts) == (takes_text, takes_parts)
