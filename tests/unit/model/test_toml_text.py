"""TOML is read in a time that grows with its size."""

from __future__ import annotations

import time
import tomllib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.model.toml_text import load_toml

SIZE = 256 * 1024


@pytest.mark.parametrize(
    "text",
    [
        "a." * (SIZE // 2) + "b = 1",
        "[" + "a ." * (SIZE // 3) + "b]",
        "x = {" + '"a".' * (SIZE // 4) + "b = 1}",
        "'a'\t.\t" * (SIZE // 6) + "b = 1",
        r'"\"".' * (SIZE // 5) + "b = 1",
    ],
)
def test_a_key_without_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a key of more than 100 parts \(at line 1\)"):
        load_toml(text)


@pytest.mark.parametrize("text", [r"\"" * (SIZE // 2), '"' + r"\"" * (SIZE // 2), "a " * (SIZE // 2), "a" * SIZE])
@pytest.mark.parametrize("place", ["{}", 'x = """{}"""', "{} = 1"])
def test_no_text_takes_long(text: str, place: str) -> None:
    began = time.process_time()
    with suppress(ValueError):
        load_toml(place.format(text))
    assert time.process_time() - began < 20  # a second, where it is quick; without bounds it is hours


def test_texts_with_many_dots_are_no_keys() -> None:
    text = "A sentence of words. " * 1000 + "." * 1000 + ".".join("0123456789abcdef" * 4)
    assert load_toml(f'prompt = "{text}"') == {"prompt": text}


@given(st.lists(st.sampled_from(["a", "b-1", '"c.d"', "'e'", ".", " ", "=", "1", "\n", "[", "]"]), max_size=20))
def test_what_it_takes_is_what_tomllib_takes(words: list[str]) -> None:
    text = "".join(words)
    try:
        expected: object = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        expected = None
    try:
        assert load_toml(text) == expected
    except tomllib.TOMLDecodeError:
        assert expected is None
