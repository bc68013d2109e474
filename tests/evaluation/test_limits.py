"""Limits as users write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_exporter.errors import OptionError
from bilstm_exporter.evaluation.selection import Budget, parse_budget

GOOD = [
    ({"max_drop": "0.5%"}, Budget(max_drop=0.5)),
    ({"max_drop": " 0.5 % "}, Budget(max_drop=0.5)),
    ({"max_drop": ".5"}, Budget(max_drop=0.5)),
    ({"max_drop": 0.5}, Budget(max_drop=0.5)),
    ({"max_drop": "0"}, Budget(max_drop=0)),
    ({"max_kb": "800"}, Budget(max_kb=800)),
    ({"max_kb": "800kB"}, Budget(max_kb=800)),
    ({"max_kb": "1.5 MB"}, Budget(max_kb=1536)),
    ({"max_kb": 12}, Budget(max_kb=12)),
    ({"max_ms": "5"}, Budget(max_ms=5)),
    ({"max_ms": "5ms"}, Budget(max_ms=5)),
    ({"max_ms": "0.005s"}, Budget(max_ms=5)),
    ({}, Budget()),
]


@pytest.mark.parametrize(("given", "wanted"), GOOD)
def test_accepted(given, wanted):
    assert parse_budget(**given) == wanted


FORMS = {
    "max_drop": "0.5% or 0.5 (both are half a percent)",
    "max_kb": "800, 800kb or 1.5mb (one kb is 1,024 bytes)",
    "max_ms": "5, 5ms or 0.005s",
}
BAD = ["", " ", "five", "-1", "1,5", "1e3", "nan", "inf", "1 2", "5min", "%", None, True, [1], -1.0]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("value", [b for b in BAD if b is not None], ids=repr)
def test_refused_with_the_accepted_forms(name, value):
    with pytest.raises(OptionError) as caught:
        parse_budget(**{name: value})
    assert FORMS[name] in str(caught.value)
    assert name.replace("_", "-") in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{"max_drop": "101"}, {"max_kb": "0"}, {"max_ms": 0}, {"max_kb": "5%"}, {"max_drop": "5kb"}],
)
def test_out_of_range_or_of_another_kind(given):
    with pytest.raises(OptionError):
        parse_budget(**given)


@given(st.floats(0.001, 99, allow_nan=False))
def test_numbers_survive(value):
    text = f"{value:.4f}"
    for form in (text, f"{text}%", f" {text} "):
        assert parse_budget(max_drop=form).max_drop == float(text)
    assert parse_budget(max_kb=f"{text}mb").max_kb == float(text) * 1024
    assert parse_budget(max_ms=f"{text}s").max_ms == float(text) * 1000


@given(st.text(max_size=8))
def test_any_text_is_a_limit_or_refused(text):
    try:
        found = parse_budget(max_drop=text)
    except OptionError:
        return
    assert 0 <= found.max_drop <= 100


def test_in_words():
    assert Budget(0.5, 800, 5).described == "a drop of 0.5 %, 800 KiB and 5 ms"
    assert Budget(0.5, None, 5).described == "a drop of 0.5 % and 5 ms"
    assert Budget(max_kb=800).described == "800 KiB"
    assert Budget().is_unlimited
    assert not Budget(max_drop=0).is_unlimited
