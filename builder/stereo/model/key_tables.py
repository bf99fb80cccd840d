"""The tables of a page of documentation that say what a TOML file may hold, made from the JSON Schema of its model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def key_tables(schema: dict[str, Any]) -> Iterator[str]:
    """The lines of a table for the keys at the top, and of one for each table of a file that has this JSON Schema."""
    inner = []
    yield from _head()
    for key, value in schema["properties"].items():
        model = _table_of(value, schema)
        if model is None:
            yield _row(key, value, schema, needed=key in schema.get("required", ()))
        else:
            inner.append((key, value, model))
    for key, value, model in inner:
        yield from _section(key, value, model, schema)


def _section(key: str, value: dict[str, Any], model: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    listed = value.get("type") == "array"
    yield f"\n### {'[[' if listed else '['}{key}{']]' if listed else ']'}\n\n{model['description']}\n"
    yield from _head()
    nested = []
    for name, each in model["properties"].items():
        below = _table_of(each, schema)
        if below is None:
            yield _row(f"{key}.{name}", each, schema, needed=name in model.get("required", ()))
        else:
            nested.append((f"{key}.{name}", each, below))
    for name, each, below in nested:
        yield from _section(name, each, below, schema)


def _head() -> Iterator[str]:
    yield from ("| key | value | default | what it says |", "|---|---|---|---|")


def _row(key: str, value: dict[str, Any], schema: dict[str, Any], *, needed: bool = False) -> str:
    default = value.get("default")
    shown = "must be there" if needed else "" if default in (None, "", [], {}) else f"`{json.dumps(default)}`"
    return f"| `{key}` | {_kind(value, schema)} | {shown} | {value['description']} |"


def _table_of(value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """What the schema says of the table that is the value, or of which the value is a list."""
    reference = value.get("$ref") or value.get("items", {}).get("$ref")
    found: dict[str, Any] | None = schema["$defs"][reference.rpartition("/")[2]] if reference else None
    return found if found and "properties" in found else None


def _kind(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """The type of a value in a word or two."""
    if reference := value.get("$ref"):
        return _kind(schema["$defs"][reference.rpartition("/")[2]], schema)
    if choices := value.get("anyOf"):
        kinds = (_kind(each, schema) for each in choices if each.get("type") != "null")
        return " or ".join(dict.fromkeys(kinds))
    if value["type"] == "array":
        return f"list of {_kind(value['items'], schema)}s"
    return {"string": "text", "integer": "number", "boolean": "true or false", "object": "table of texts"}[
        value["type"]
    ]
