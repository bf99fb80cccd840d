"""TOML of a stranger's, in a time that its size bounds: tomllib takes minutes for one dotted key of 100,000 parts."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

_MOST_PARTS: Final = 100
# Pieces of bounded length: of longer ones, too few fit into a file to matter, and the search stays linear.
_PART = r"""(?:[A-Za-z0-9_-]{1,40}+|"(?:[^"\\\n]|\\.){0,40}+"|'[^'\n]{0,40}+')[ \t]{0,40}+"""
_ENDLESS_KEY = rf"(?<![A-Za-z0-9_-])(?:{_PART}\.[ \t]{{0,40}}+){{{_MOST_PARTS}}}"


def load_toml(text: str) -> dict[str, Any]:
    """The tables of `text`. Raises ValueError if it is no TOML (TOMLDecodeError is one), and RecursionError."""
    # Compiled when it may be needed: every verb of a sandbox reads a jcard for its name.
    if text.count(".") >= _MOST_PARTS and (found := re.search(_ENDLESS_KEY, text)):
        line = text.count("\n", 0, found.start()) + 1
        raise ValueError(f"a key of more than {_MOST_PARTS} parts (at line {line})")
    return tomllib.loads(text)
