"""JSON text without the `json` package.

Importing `json` pulls in `re`, `enum` and `functools`: 30 ms on bare metal, about a second in an emulated machine,
where the whole boot takes nine. Its C core is built into the interpreter and costs nothing, so we drive that core
ourselves. The tests hold both functions equal to `json.loads` and `json.dumps`.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_BLANK = " \t\r\n"  # RFC 8259, section 2


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Settings:
    """What the C scanner asks of `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_constant)


_scan: Any = make_scanner(_Settings)  # type: ignore[arg-type]  # the stub wants a JSONDecoder; attributes are enough


def loads(text: str) -> Any:
    """The value of a JSON text (RFC 8259). Raises ValueError, also for what nests too deep."""
    start = len(text) - len(text.lstrip(_BLANK))
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"no value at character {stop.value}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    if text[end:].strip(_BLANK):
        raise ValueError(f"extra data at character {end}")
    return value


def dumps(value: Any) -> str:
    """Compact JSON, in ASCII. Raises ValueError for what JSON cannot say (NaN, other types, keys that are not text)."""
    parts: list[str] = []
    try:
        _write(value, parts)
    except RecursionError:
        raise ValueError("nested too deep") from None
    return "".join(parts)


def _write(value: Any, parts: list[str]) -> None:
    if value is None:
        parts.append("null")
    elif value is True:
        parts.append("true")
    elif value is False:
        parts.append("false")
    elif isinstance(value, str):
        parts.append(encode_basestring_ascii(value))
    elif isinstance(value, int):
        parts.append(int.__repr__(value))
    elif isinstance(value, float):
        if value - value != 0:  # an infinity or NaN
            raise ValueError(f"{value} is not JSON")
        parts.append(float.__repr__(value))
    elif isinstance(value, dict):
        separator = "{"
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"a key of type {type(key).__name__} is not JSON")  # noqa: TRY004
            parts.append(separator + encode_basestring_ascii(key) + ":")
            _write(item, parts)
            separator = ","
        parts.append("}" if value else "{}")
    elif isinstance(value, (list, tuple)):
        separator = "["
        for item in value:
            parts.append(separator)
            _write(item, parts)
            separator = ","
        parts.append("]" if value else "[]")
    else:
        raise ValueError(f"a {type(value).__name__} is not JSON")
