"""What is made from the models: docs/jcard.md, the schema for editors, and the jcard.toml to begin with."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

from stereo.model.document import model_in
from stereo.model.jcard import Jcard, jcard_schema, parse_jcard
from stereo.model.jcard_page import jcard_page, jcard_template
from stereo.paths import Checkout

DOCS = Checkout.containing_this_package().root / "docs"


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        found |= keys(inner, f"{prefix}{name}.") if inner else {f"{prefix}{name}"}
    return found


def test_the_committed_page_is_what_the_models_say() -> None:
    committed = DOCS.joinpath("jcard.md").read_text()
    assert committed == jcard_page(), "run: ./stereo schema jcard --markdown > docs/jcard.md"


def test_the_committed_schema_is_what_the_models_say() -> None:
    committed = DOCS.joinpath("jcard.schema.json").read_text()
    assert committed == jcard_schema(), "run: ./stereo schema jcard > docs/jcard.schema.json"


def test_the_page_has_every_key_once() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` (?:\|[^|]*){3}\|$", jcard_page(), re.MULTILINE)
    assert sorted(rows) == sorted(keys(Jcard))


def test_every_key_is_described() -> None:
    assert "None" not in jcard_page()
    assert not re.search(r"\| *\|$", jcard_page(), re.MULTILINE)


@pytest.mark.parametrize("name", [None, "other"])
def test_the_beginners_jcard_is_one_as_it_is(tmp_path: Path, name: str | None) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    jcard = parse_jcard(jcard_template(name), folder / "jcard.toml", {})
    assert jcard.name == (name or "project")
    assert [share.host for share in jcard.shared] == [folder]
    assert jcard.notes == ()


def test_the_beginners_jcard_is_one_with_every_comment_taken_off(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\[|[A-Za-z_]+ = )", "", jcard_template(), flags=re.MULTILINE)
    jcard = parse_jcard(text, tmp_path / "jcard.toml", {"OPENAI_API_KEY": "k"})
    assert jcard.network.rules is not None
    assert (jcard.name, jcard.agents[0].secrets, jcard.timeout.duration) == ("my-sandbox", ("OPENAI_API_KEY",), 7200.0)


def test_the_beginners_jcard_fits_the_schema() -> None:
    jsonschema.validate(tomllib.loads(jcard_template()), json.loads(jcard_schema()))


@pytest.mark.parametrize(
    "text",
    [
        "nam = 'x'",
        "name = 'A'",
        "[resources]\ncpu = 1",
        "[network]\nmode = 'x'",
        "shared = [{ host = '.' }]",
        "agents = [{ harness = 'none' }]",
        "agents = [{ harness = 'codex', env = { 'a b' = 'c' } }]",
        "secrets = { 'a/b' = 'c' }",
        "secrets = { A = 1 }",
        "timeout = '2h'",
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), json.loads(jcard_schema()))
