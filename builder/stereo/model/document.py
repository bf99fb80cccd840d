"""From the text of a TOML file that a person wrote to a pydantic model, or to a list of all that is wrong with it.

pydantic's own messages speak of its internals. Here each of its complaints becomes a `Problem`: the key as a person
would look for it in the file, what is wrong with it, and a hint (the nearest known key, what the value must look like).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from stereo.errors import Problem, ProblemsError
from stereo.model.toml_text import load_toml

Model = TypeVar("Model", bound=BaseModel)

MOST_BYTES = 256 * 1024
_MOST_SHOWN = 60
_EVERY_KEY = "docs/mixtapes.md has every key"
Location = tuple[int | str, ...]
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")

# What a pattern means, in words: a person who mistypes a name should not have to read a regular expression.
_MEANINGS: dict[str, str] = {}


class FaultsError(ValueError):
    """What a validator raises that found several faults: where below its value, what, and a hint or None."""

    def __init__(self, found: Sequence[tuple[Location, str, str | None]]) -> None:
        super().__init__("; ".join(message for _, message, _ in found))
        self.found = found


def fault(message: str, hint: str) -> FaultsError:
    """What a validator raises that found one fault and knows the remedy."""
    return FaultsError([((), message, hint)])


def pattern(expression: str, meaning: str) -> Any:
    """A pydantic Field for a string that matches `expression`; `meaning` says so in messages and in the JSON Schema."""
    _MEANINGS[expression] = meaning
    return Field(pattern=expression, description=meaning)


def shown(value: object) -> str:
    """`value` for a message: short, and with nothing in it that a terminal would act on."""
    text = ascii(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def _frozen(value: object) -> object:
    """Lists as tuples, because the strict and frozen models hold tuples."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value


def parse_toml(data: bytes, file: str, every_key: str = _EVERY_KEY) -> dict[str, object]:
    """The tables of a TOML file, arrays as tuples. Raises ProblemsError when it is too large, no UTF-8 or no TOML.

    `every_key` is the hint of last resort: it says where the keys are described.
    """
    if len(data) > MOST_BYTES:
        raise ProblemsError([Problem(file, "-", f"larger than {MOST_BYTES // 1024} KiB", "leave out what is too much")])
    try:
        parsed = _frozen(load_toml(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise ProblemsError(
            [Problem(file, "-", f"byte {error.start} is not UTF-8", "save the file as UTF-8")]
        ) from error
    except RecursionError as error:
        raise ProblemsError([Problem(file, "-", "nested too deeply", every_key)]) from error
    except ValueError as error:
        raise ProblemsError([Problem(file, "-", f"not TOML: {error}", "mend the file at that place")]) from error
    assert isinstance(parsed, dict)
    return parsed


def key_of(location: Location) -> str:
    """A pydantic location as the dotted key that stands in the file, such as `agent.extra_packages.npm[0].name`."""
    text = ""
    for part in location:
        if part == "[key]":  # pydantic's mark for "the key itself is wrong"
            continue
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE_KEY.fullmatch(part) else shown(part))
    return text or "-"


def model_in(annotation: object) -> type[BaseModel] | None:
    """The model inside `tuple[Model, ...]`, `Model | None` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := model_in(part))), None)


def _known_keys(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the table which holds `location` may have."""
    current: type[BaseModel] | None = model
    for part in location[:-1]:
        if current is None:
            return []
        if isinstance(part, str) and part in current.model_fields:
            current = model_in(current.model_fields[part].annotation)
    return sorted(field.alias or name for name, field in current.model_fields.items()) if current else []


def nearest(word: str, known: list[str]) -> str | None:
    """A hint that names the word of `known` which `word` may have been meant to be, or else all of them."""
    found = difflib.get_close_matches(word, known, n=1)
    if found:
        return f"did you mean {found[0]!r}?"
    return f"known: {', '.join(known)}" if known else None


def _description(model: type[BaseModel], location: Location) -> str | None:
    """What the schema says of the innermost described key on the way to `location`."""
    current: type[BaseModel] | None = model
    found = None
    for part in location:
        if current is None:
            break
        if isinstance(part, str) and part in current.model_fields:
            field = current.model_fields[part]
            found, current = field.description or found, model_in(field.annotation)
    return found


def _problems(error: ErrorDetails, model: type[BaseModel], file: str, every_key: str) -> Iterator[Problem]:
    raised = error.get("ctx", {}).get("error")
    places = raised.found if isinstance(raised, FaultsError) else [((), None, None)]
    for below, message, hint in places:
        location = (*error["loc"], *below)
        found = Problem(file, key_of(location), message, hint) if message else _worded(error, model, file)
        yield found if found.hint else replace(found, hint=_description(model, location) or every_key)


def _worded(error: ErrorDetails, model: type[BaseModel], file: str) -> Problem:
    key, kind, context = key_of(error["loc"]), error["type"], error.get("ctx", {})
    value = shown(error.get("input"))
    if kind == "extra_forbidden":
        return Problem(file, key, "unknown key", nearest(str(error["loc"][-1]), _known_keys(model, error["loc"])))
    if kind == "missing":
        return Problem(file, key, "is missing")
    if kind == "string_pattern_mismatch":
        expression = str(context.get("pattern"))
        return Problem(file, key, f"{value} is not accepted", _MEANINGS.get(expression, f"must match {expression}"))
    if kind == "enum":
        choices = re.findall(r"'([^']*)'", str(context.get("expected")))
        return Problem(file, key, f"{value} is not accepted", nearest(str(error.get("input")), choices))
    if kind == "value_error":
        return Problem(file, key, str(context.get("error")))
    if kind in ("model_type", "dict_type"):  # pydantic would name our classes
        return Problem(file, key, f"must be a table, not {value}")
    if kind == "tuple_type":
        return Problem(file, key, f"must be a list, not {value}")
    return Problem(file, key, error["msg"][:1].lower() + error["msg"][1:] + f", not {value}")


def problems_of(
    error: ValidationError, model: type[BaseModel], file: str, every_key: str = _EVERY_KEY
) -> list[Problem]:
    """Everything that pydantic found, in our words."""
    found = error.errors(include_url=False)
    # A list that lost its faulty items is then also too short: the second complaint is only an echo of the first.
    inner = {each["loc"][:depth] for each in found for depth in range(len(each["loc"]))}
    told = (each for each in found if each["type"] != "too_short" or each["loc"] not in inner)
    return [problem for each in told for problem in _problems(each, model, file, every_key)]


def validate(
    data: dict[str, object], model: type[Model], file: str, every_key: str = _EVERY_KEY, context: object = None
) -> Model:
    """`data` as a `model`. Raises ProblemsError with every problem in it. `context` is for the model's validators."""
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise ProblemsError(problems_of(error, model, file, every_key)) from error


def json_schema(model: type[BaseModel], title: str) -> str:
    """The JSON Schema (draft 2020-12) of a file that is a `model`, as text that ends with a newline."""
    schema = _closed(model.model_json_schema())
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """pydantic leaves tables with free keys open to keys that match no pattern: an editor would not mark those."""
    closed = {
        key: _closed(value) if isinstance(value, dict) else value for key, value in schema.items() if key != "title"
    }
    return {**closed, "additionalProperties": False} if "patternProperties" in closed else closed
