"""What is wrong with a mixtape is said all at once, with file, key and a hint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stereo.errors import Problem, ProblemsError
from stereo.model.document import MOST_BYTES
from stereo.model.mixtape import list_mixtapes, load_mixtape

FINE = 'summary = "s"\narchitectures = ["x86_64"]\n'


def problems(folder: Path, name: str = "m", **files: str | bytes) -> list[Problem]:
    """What is said about `name` after the files were written to `folder`; that always includes what to do next."""
    for stem, text in files.items():
        data = text.encode() if isinstance(text, str) else text
        folder.joinpath(f"{stem.replace('_', '-')}.toml").write_bytes(data)
    with pytest.raises(ProblemsError) as caught:
        load_mixtape(name, folder, dev_key=None)
    assert [problem for problem in caught.value.problems if not problem.hint] == []
    return list(caught.value.problems)


def only(found: list[Problem]) -> Problem:
    (problem,) = found
    return problem


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = """
        sumary = "s"
        architectures = ["x86_65"]
        api_keys = ["lower case"]
        harness = "open-code"
        packages.debian = ["Upper", 3]
    """
    found = {problem.key: problem for problem in problems(tmp_path, m=text)}
    assert set(found) == {
        "summary", "sumary", "architectures[0]", "api_keys[0]", "harness", "packages.debian[0]", "packages.debian[1]"
    }  # fmt: skip
    assert found["sumary"].hint == "did you mean 'summary'?"
    assert found["architectures[0]"].hint == "did you mean 'x86_64'?"
    assert found["harness"].hint == "did you mean 'opencode'?"
    assert {problem.file for problem in found.values()} == {f"{tmp_path.name}/m.toml"}


def test_an_unknown_key_deep_in_a_table_gets_that_tables_nearest(tmp_path: Path) -> None:
    text = FINE + 'agent.extra_packages.npm = [{ name = "n", verison = "1.0.0" }]'
    problem = only(problems(tmp_path, m=text))
    assert problem.key == "agent.extra_packages.npm[0].verison"
    assert problem.hint == "did you mean 'version'?"


def test_faults_of_an_ancestor_are_told_with_the_ancestors_file(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, m='summary = "s"\nextends = "p"', p=FINE + "bad = 1"))
    assert (problem.file, problem.key) == (f"{tmp_path.name}/p.toml", "bad")


def test_faults_of_all_generations_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, m='extends = "p"\nsummary = 3', p=FINE + 'extends = "q"\nbad = 1', q='extends = "none"')
    files = (f"{tmp_path.name}/{name}.toml" for name in "mpqq")
    assert [(problem.file, problem.key) for problem in found] == [
        *zip(files, ("summary", "bad", "extends", "summary"), strict=True)
    ]


@pytest.mark.parametrize("name", ["tools", "test-tools"])
def test_the_lock_of_the_tools_cannot_be_taken_by_a_mixtape(tmp_path: Path, name: str) -> None:
    problem = only(problems(tmp_path, name, **{name: FINE}))
    assert "no name for a mixtape" in problem.message


def test_what_should_be_a_table_is_told_without_the_names_of_our_classes(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, m=FINE + "agent.extra_packages.npm = [7]"))
    assert (problem.key, problem.message) == ("agent.extra_packages.npm[0]", "must be a table, not 7")


def test_listing_tells_the_faults_of_all_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tmp_path.joinpath(f"{name}.toml").write_text(FINE + "bad = 1")
    tmp_path.joinpath("c.toml").write_text(FINE)
    with pytest.raises(ProblemsError) as caught:
        list_mixtapes(tmp_path)
    assert [problem.file for problem in caught.value.problems] == [f"{tmp_path.name}/{name}.toml" for name in "ab"]


def test_an_unknown_parent_gets_the_nearest(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, m='summary = "s"\nextends = "bse"', base=FINE))
    assert (problem.key, problem.hint) == ("extends", "did you mean 'base'?")


@pytest.mark.parametrize("parent", ["m", "other"])
def test_a_circle_is_refused_and_drawn(tmp_path: Path, parent: str) -> None:
    files = {name: f'summary = "s"\nextends = "{target}"' for name, target in (("m", parent), ("other", "m"))}
    problem = only(problems(tmp_path, **files))
    assert problem.key == "extends"
    assert "m -> " in problem.message
    assert problem.message.endswith("-> m")


def test_a_chain_without_end_is_cut(tmp_path: Path) -> None:
    files = {f"m{number}": f'summary = "s"\nextends = "m{number + 1}"' for number in range(40)}
    problem = only(problems(tmp_path, "m0", **files, m40=FINE))
    assert "generations" in problem.message


def test_a_mixtape_for_no_architecture_is_refused(tmp_path: Path) -> None:
    assert only(problems(tmp_path, m='summary = "s"')).key == "architectures"


@pytest.mark.parametrize("name", ["Upper", "1st", "m_m", "x" * 32, "some-dev"])
def test_a_file_with_an_unfit_name_is_told_when_listing(tmp_path: Path, name: str) -> None:
    tmp_path.joinpath(f"{name}.toml").write_text(FINE)
    with pytest.raises(ProblemsError, match="no name for a mixtape"):
        list_mixtapes(tmp_path)


def test_two_packages_with_one_program_are_refused_in_the_later_file(tmp_path: Path) -> None:
    parent = FINE + 'agent.extra_packages.debian = [{ name = "vim", programs = ["vi"] }]'
    child = 'summary = "s"\nextends = "p"\nagent.extra_packages.npm = [{ name = "vi", programs = ["vi"] }]'
    problem = only(problems(tmp_path, m=child, p=parent))
    assert problem.file.endswith("/m.toml")
    assert "'vi'" in problem.message


def test_a_package_twice_on_one_architecture_is_refused(tmp_path: Path) -> None:
    text = FINE + 'agent.extra_packages.npm = [{ name = "n" }, { name = "n", architectures = ["x86_64"] }]'
    assert "stands twice" in only(problems(tmp_path, m=text)).message


def test_a_harness_without_its_program_is_refused(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, m=FINE + 'harness = "claude-code"'))
    assert (problem.key, problem.hint) == ("harness", 'name it in a package: programs = ["claude"]')


def test_a_harness_must_be_there_on_every_architecture(tmp_path: Path) -> None:
    text = """
        summary = "s"
        architectures = ["x86_64", "aarch64"]
        harness = "codex"
        agent.extra_packages.npm = [{ name = "n", programs = ["codex"], architectures = ["x86_64"] }]
    """
    assert "aarch64" in only(problems(tmp_path, m=text)).message


def test_a_value_for_an_api_key_is_refused(tmp_path: Path) -> None:
    text = FINE + 'api_keys = ["MY_LOGIN"]\nagent.environment = { MY_LOGIN = "x" }'
    assert only(problems(tmp_path, m=text)).key == "agent.environment.MY_LOGIN"


@pytest.mark.parametrize("name", ["PATH", "HOME", "LD_PRELOAD", "OPENAI_API_KEY", "GITHUB_TOKEN", "KEY"])
def test_variables_of_the_system_and_secrets_are_refused(tmp_path: Path, name: str) -> None:
    assert name in only(problems(tmp_path, m=FINE + f'agent.environment = {{ {name} = "x" }}')).message


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "", "a b", "a\\nb", "~/x", "-x/y"]
)
def test_home_files_stay_below_the_home(tmp_path: Path, path: str) -> None:
    problems(tmp_path, m=FINE + f'agent.home_files = {{ "{path}" = "text" }}')


def test_a_home_file_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    problems(tmp_path, m=FINE + 'agent.home_files = { "a" = "text", "a/b" = "text" }')


@pytest.mark.parametrize("file", ["/bin/sh", "../sh", "a/../b", "x/{home}/y", "x{", "a b", ""])
def test_a_program_is_a_plain_path_in_its_package(tmp_path: Path, file: str) -> None:
    problems(tmp_path, m=FINE + f'agent.extra_packages.npm = [{{ name = "n", programs = {{ p = "{file}" }} }}]')


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "-rf", "a b", "a\\u0000b"])
def test_a_program_has_a_plain_name(tmp_path: Path, name: str) -> None:
    problems(tmp_path, m=FINE + f'agent.extra_packages.npm = [{{ name = "n", programs = {{ "{name}" = "f" }} }}]')


@pytest.mark.parametrize(
    "table",
    [
        'npm = [{ name = "../x" }]',
        'npm = [{ name = "n", version = "latest" }]',
        'npm = [{ name = "n", version = "^1.2.3" }]',
        'npm = ["n"]',
        'pypi = [{ name = "-x" }]',
        'pypi = [{ name = "x", version = "1; rm" }]',
        'debian = ["a b"]',
        'debian = ["apt=1.0"]',
        'debian = ["git", "git"]',
        'debian = [{ name = "git", programs = ["git", "git"] }]',
        'debian = [{ name = "git", programs = [1] }]',
        'url = [{ name = "u", url = "http://example.org/x", sha256 = "' + "0" * 64 + '", programs = ["u"] }]',
        'url = [{ name = "u", url = "https://example.org/x", sha256 = "beef", programs = ["u"] }]',
        'url = [{ name = "u", url = "https://example.org/x", sha256 = "' + "0" * 64 + '" }]',
        'url = [{ name = "u", url = "https://u:p@example.org/x", sha256 = "' + "0" * 64 + '", programs = ["u"] }]',
    ],
)
def test_packages_that_cannot_be_meant_are_refused(tmp_path: Path, table: str) -> None:
    problems(tmp_path, m=FINE + f"[agent.extra_packages]\n{table}")


@pytest.mark.parametrize("summary", ["", " padded", "two\\nlines", "x" * 121, "bell\\u0007"])
def test_a_summary_is_one_line(tmp_path: Path, summary: str) -> None:
    assert only(problems(tmp_path, m=f'summary = "{summary}"\narchitectures = ["x86_64"]')).key == "summary"


def test_text_that_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in only(problems(tmp_path, m='summary = "s"\n= 1')).message


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"#" * (MOST_BYTES + 1),
        b"a=" + b"[" * 5000,
        b"a = " + b"9" * 5000,
        b"a = 1979-99-99",
        b"a.a=1\na=2",
    ],
    ids=["no-utf-8", "large", "deep", "long-number", "date", "twice"],
)
def test_hostile_text_is_a_problem_and_no_crash(tmp_path: Path, data: bytes) -> None:
    only(problems(tmp_path, m=data))


def test_a_message_holds_nothing_that_a_terminal_acts_on(tmp_path: Path) -> None:
    text = FINE + '"\\u001b[31m" = 1\napi_keys = ["\\u001b]0;x\\u0007"]'
    for problem in problems(tmp_path, m=text):
        assert str(problem).isprintable()


def test_a_fifo_in_the_place_of_a_mixtape_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.toml")
    assert "regular file" in only(problems(tmp_path)).message


def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    tmp_path.joinpath("m.toml").symlink_to("nowhere")
    assert "cannot be read" in only(problems(tmp_path)).message


words = st.text(st.sampled_from("abAB09-_.@/{}[ \n\x1b~é"), max_size=12)
keys = st.sampled_from(
    ["summary", "extends", "architectures", "harness", "api_keys", "packages", "agent", "ssh", "debian", "npm", "pypi",
     "url", "extra_packages", "environment", "home_files", "programs", "name", "version", "authorized_keys", "sha256"]
) | words.filter(bool)  # fmt: skip
leaves = words | st.booleans() | st.integers() | st.floats() | st.dates() | st.sampled_from(["x86_64", "m", "opencode"])
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


def accepted_or_told(folder: Path, data: bytes) -> None:
    folder.joinpath("m.toml").write_bytes(data)
    told: list[Problem] | None = None
    try:
        load_mixtape("m", folder, dev_key=None)
    except ProblemsError as error:
        told = list(error.problems)
    assert told != []
    for problem in told or ():
        assert problem.file == f"{folder.name}/m.toml"
        assert str(problem).isprintable()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(keys, values, max_size=6))
def test_any_table_is_accepted_or_told_what_is_wrong(tmp_path: Path, data: dict[str, Any]) -> None:
    accepted_or_told(tmp_path, tomlkit.dumps(data).encode("utf-8", "surrogatepass"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=200) | st.text(st.sampled_from("abm[]{}=.,\"'\n# 019-_T:+"), max_size=200).map(str.encode)
)
def test_any_bytes_are_accepted_or_told_what_is_wrong(tmp_path: Path, data: bytes) -> None:
    accepted_or_told(tmp_path, data)
