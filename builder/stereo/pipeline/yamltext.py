"""Writes the YAML of workflow files: plain mappings, lists and scalars, in the order given, a comment where one is due.

Our runtime has no YAML library, and those that there are lose comments; the tests read what comes out with one. What is
written is YAML 1.2 and 1.1 alike: any text that could be taken for something else is quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./@ -]*")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Remarked(str):
    """A text with a comment behind it."""

    remark: str

    def __new__(cls, text: str, remark: str) -> Remarked:
        made = super().__new__(cls, text)
        made.remark = remark
        return made


def render(document: Mapping[str, Any]) -> str:
    """The document as YAML, with a newline at its end."""
    return "\n".join([*_lines(document, ""), ""])


def _lines(value: Mapping[str, Any] | Sequence[Any], indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _entry(f"{indent}{_key(key)}:", inner, indent + "  ")
        return
    for inner in value:
        if isinstance(inner, Mapping) and inner:
            first, *others = _lines(inner, indent + "  ")
            yield f"{indent}- {first.lstrip()}"
            yield from others
        else:
            yield f"{indent}- {_scalar(inner)}"


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, (Mapping, list, tuple)) and value:
        yield head
        yield from _lines(value, indent)
    elif isinstance(value, str) and "\n" in value:
        yield f"{head} |"
        yield from (f"{indent}{line}" for line in value.rstrip("\n").split("\n"))
    else:
        yield f"{head} {_scalar(value)}"


def _key(text: str) -> str:
    # GitHub's "on" stays bare, as everybody writes it: it is a word of YAML 1.1 alone, and GitHub reads 1.2.
    is_plain = _KEY.fullmatch(text) and (text == "on" or text.lower() not in _WORDS)
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _scalar(value: Any) -> str:
    if isinstance(value, Remarked):
        return f"{_text(value)}  # {value.remark}"
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, (list, tuple)):
        return "[]"
    return json.dumps(value) if isinstance(value, (bool, int)) or value is None else _text(str(value))


def _text(text: str) -> str:
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS and not text.endswith(" ")
    return str(text) if is_plain else json.dumps(text, ensure_ascii=False)
