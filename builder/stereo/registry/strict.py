"""JSON from strangers: bounded in bytes and depth; no key twice, no NaN (RFC 8259, RFC 7493)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from stereo.errors import shown
from stereo.registry.errors import Malformed

MAX_DEPTH = 32


def read_json(data: bytes, *, limit: int, what: str) -> Any:
    """The value that `data` holds. `limit` is in bytes, `what` how messages name the document.

    Raises `Malformed`, whatever the bytes are.
    """
    if len(data) > limit:
        raise Malformed(f"is larger than {limit} bytes", where=what)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError as error:
        raise Malformed("is nested too deep", where=what) from error
    except UnicodeDecodeError as error:
        raise Malformed(f"is not UTF-8 at byte {error.start}", where=what) from error
    except ValueError as error:  # JSONDecodeError, our own below, and numbers that Python refuses
        raise Malformed(f"is not JSON: {shown(str(error), 200)}", where=what) from error
    _bounded(value, what)
    return value


def canonical(value: object) -> bytes:
    """The one form in which we write documents: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"key {shown(key, 80)!r} stands twice")
        table[key] = value
    return table


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _bounded(value: Any, what: str) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [inner for outer in layer for inner in _inside(outer)]
        if not layer:
            return
    raise Malformed("is nested too deep", where=what)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
