"""README and docs against what is there: verbs and their options, dependencies, the first jcard.toml, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click import Command, Context, Group

from stereo.cli.app import VERBS, Verbs
from stereo.model.jcard import guest_config, parse_jcard
from stereos_guest import agentspec, protocol
from stereos_guest.requests import FEATURES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(title: str) -> str:
    return " ".join(line.split("|")[1] for line in section(title).splitlines() if line.startswith("| "))


def test_every_verb_is_in_the_readme_and_no_other() -> None:
    named = {word.split()[0] for word in re.findall(r"`([^`]+)`", first_cells("Verbs"))}
    assert named == set(VERBS)


def test_every_dependency_is_in_the_readme_and_no_other() -> None:
    named = {word.strip() for word in first_cells("Why each dependency").replace("package", "", 1).split() if word}
    wanted = set()
    for name in ("runtime.in", "matrix.in", "test.in"):
        lines = (ROOT / "requirements" / name).read_text().split("\n")
        wanted |= {re.split(r"[<>=~\[ ]", line)[0] for line in lines if line and line[0] not in "#-"}
    assert {word.strip(",") for word in named} - {"-", "---"} == wanted


def test_the_jcard_of_the_quick_start_is_one(tmp_path: Path) -> None:
    block = section("A sandbox").split("`jcard.toml`:\n\n", 1)[1].split("\n\n`stereo init`", 1)[0]
    text = "\n".join(line[4:] for line in block.splitlines())
    assert len([line for line in text.splitlines() if line]) <= 10
    folder = tmp_path / "project"
    folder.mkdir()
    jcard = parse_jcard(text, folder / "jcard.toml", {"OPENAI_API_KEY": "k"})
    assert jcard.notes == ()
    (agent,) = agentspec.parse(guest_config(jcard)).agents
    assert (agent.name, agent.type, agent.secrets) == ("mender", agentspec.SANDBOXED, ["OPENAI_API_KEY"])


def shown_commands(text: str) -> list[list[str]]:
    """The words after `stereo` of every line of an example that is such a command; drawings have lines of their own."""
    lines = [line for line in text.splitlines() if re.match(r"    (\./)?stereo [a-z]", line) and "─" not in line]
    rows = [line.split("#")[0].split() for line in lines]
    return [words[1 : words.index("&&")] if "&&" in words else words[1:] for words in rows]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_have_the_options_that_are_used(page: Path) -> None:
    for words in shown_commands(page.read_text()):
        command: Command = Verbs()
        rest = list(words)
        while isinstance(command, Group) and rest and (inner := command.get_command(Context(command), rest[0])):
            command, rest = inner, rest[1:]
        assert rest != words, f"there is no such verb: {words}"
        known = {option for each in command.params for option in each.opts + each.secondary_opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"} <= known, words


def test_the_readme_shows_enough_commands() -> None:
    assert len(shown_commands(section("A sandbox"))) >= 11
    assert {words[0] for words in shown_commands(section("Publish and pull"))} == {
        *("keygen", "build", "sign", "publish", "pull", "verify")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_a_page_lead_to_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text())
    assert [anchor for target, anchor in links if anchor not in headings(page.parent / (target or page.name))] == []


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)", README))
    assert {str(page.relative_to(ROOT)) for page in PAGES[1:]} == linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:builder|guest|tests|overlays|mkosi|requirements)/[\w./-]+)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_variable_of_ours_is_on_a_page_and_no_other() -> None:
    sources = [ROOT / "stereo", *(ROOT / "builder").rglob("*.py"), *(ROOT / "ci").rglob("*.py")]
    used = {name for file in sources for name in re.findall(r"(?<![\w])STEREO_[A-Z_]*[A-Z]", file.read_text())}
    told = {name for page in PAGES for name in re.findall(r"(?<![\w])STEREO_[A-Z_]*[A-Z]", page.read_text())}
    assert used == told


def test_every_message_of_the_protocol_is_on_its_page() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    kinds = {*protocol.REQUESTS, *protocol.REPLIES}
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in page] == []
    assert [feature for feature in FEATURES if f"`{feature}`" not in page] == []
