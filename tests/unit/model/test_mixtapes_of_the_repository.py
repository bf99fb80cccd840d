"""The mixtapes that we ship: they resolve, they say what the issue asks for, and the schema for editors is theirs."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

from stereo.model.architecture import Architecture
from stereo.model.mixtape import list_mixtapes, load_mixtape, mixtape_schema
from stereo.model.mixtape_file import MixtapeFile
from stereo.paths import Checkout

FOLDER = Checkout.containing_this_package().mixtapes
FILES = sorted(FOLDER.glob("*.toml"))


def programs(name: str) -> set[str]:
    mixtape = load_mixtape(name, FOLDER, dev_key=None)
    return {program.name for program in mixtape.programs(Architecture.X86_64)}


def test_all_mixtapes_resolve() -> None:
    assert {mixtape.name for mixtape in list_mixtapes(FOLDER)} >= {"base", "opencode-mixtape", "coder"}


def test_the_base_has_no_interpreter_compiler_or_way_to_be_another_user() -> None:
    assert not programs("base") & {"python3", "perl", "node", "gcc", "cc", "sudo", "su", "apt-get", "dpkg", "mount"}


def test_the_base_has_what_agents_expect() -> None:
    tools = "bash sh ls cat grep sed awk find diff less which git curl jq rg tree file unzip make vi tmux htop ps ssh"
    assert set(tools.split()) <= programs("base")


def test_opencode_mixtape_is_opencode() -> None:
    mixtape = load_mixtape("opencode-mixtape", FOLDER, dev_key=None)
    assert mixtape.harness.value == "opencode"
    assert mixtape.api_keys == ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")
    assert programs("opencode-mixtape") == programs("base") | {"opencode"}


def test_coder_has_all_four_agents_and_none_updates_itself() -> None:
    assert {"claude", "codex", "gemini", "opencode"} <= programs("coder")
    assert load_mixtape("coder", FOLDER, dev_key=None).environment["DISABLE_AUTOUPDATER"] == "1"


@pytest.mark.parametrize("architecture", Architecture)
def test_every_mixtape_knows_its_agents_on_every_architecture(architecture: Architecture) -> None:
    for mixtape in list_mixtapes(FOLDER):
        wanted = mixtape.harness.program
        names = {program.name for program in mixtape.programs(architecture)}
        assert wanted is None or wanted in names


def test_the_committed_schema_is_what_the_models_say() -> None:
    committed = FOLDER.joinpath("mixtape.schema.json").read_text()
    assert committed == mixtape_schema(), "run: ./stereo schema mixtape > mixtapes/mixtape.schema.json"


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_mixtape_fits_the_schema_and_tells_editors_where_it_is(file: Path) -> None:
    text = file.read_text()
    jsonschema.validate(tomllib.loads(text), json.loads(mixtape_schema()))
    assert text.startswith("#:schema ./mixtape.schema.json\n")


@pytest.mark.parametrize(
    "text",
    [
        'summary = "s"\nsumary = "s"',
        'summary = "s"\narchitectures = ["riscv64"]',
        'summary = "s"\nagent.environment = { "a b" = "c" }',
        'summary = "s"\nagent.extra_packages.debian = ["Upper"]',
        'summary = "s"\nagent.extra_packages.npm = [{ name = "n", programs = [1] }]',
        "",
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), json.loads(mixtape_schema()))


def test_the_example_in_the_documentation_is_a_mixtape(tmp_path: Path) -> None:
    text = FOLDER.parent.joinpath("docs", "mixtapes.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    tmp_path.joinpath("example.toml").write_text(example)
    tmp_path.joinpath("base.toml").write_text(FOLDER.joinpath("base.toml").read_text())
    mixtape = load_mixtape("example", tmp_path, dev_key=None)
    assert {"ruff", "sqlite3", "bash"} <= {program.name for program in mixtape.programs(Architecture.X86_64)}


def test_every_key_is_documented() -> None:
    def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found |= keys(inner, f"{prefix}{name}.")
            else:
                found.add(f"{prefix}{name}")
        return found

    text = FOLDER.parent.joinpath("docs", "mixtapes.md").read_text()
    documented = set(re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE))
    assert documented == keys(MixtapeFile)
