"""Our JSON must be everyone's JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_guest import jsontext

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_dumps_writes_what_json_writes(value: object) -> None:
    assert jsontext.dumps(value) == json.dumps(value, separators=(",", ":"))


@given(values, st.sampled_from([None, 1]), st.sampled_from(["", " ", "\t\r\n"]))
def test_loads_reads_what_json_reads(value: object, indent: int | None, blank: str) -> None:
    text = blank + json.dumps(value, indent=indent) + blank
    assert jsontext.loads(text) == value


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn\\u \n\x00', max_size=40) | st.text(max_size=20))
def test_loads_accepts_exactly_what_json_accepts(text: str) -> None:
    def no_constants(name: str) -> object:
        raise ValueError(name)

    try:
        expected = json.loads(text, parse_constant=no_constants)
    except ValueError:
        with pytest.raises(ValueError):
            jsontext.loads(text)
    else:
        assert jsontext.loads(text) == expected


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "[Infinity]"])
def test_constants_outside_the_standard_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        jsontext.loads(text)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_refused_not_a_crash(opening: str) -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        jsontext.loads(opening * 200_000)


def test_a_number_with_absurdly_many_digits_is_refused() -> None:
    with pytest.raises(ValueError):
        jsontext.loads("9" * 100_000)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), {1: 2}, b"bytes", {"a": object()}])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        jsontext.dumps(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="nested too deep"):
        jsontext.dumps(loop)
