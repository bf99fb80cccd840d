"""What a jcard may say about agents: defaults, names, command lines, and every fault at once."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from stereos_guest import agentspec
from stereos_guest.agentspec import AgentSpec, SpecError, parse

MINIMAL = '[[agents]]\nharness = "opencode"\nprompt = "work"\n'


def only(text: str) -> AgentSpec:
    (agent,) = parse(text).agents
    return agent


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse(text)
    return caught.value.problems


def test_the_defaults_are_the_originals() -> None:
    agent = only(MINIMAL)
    assert (agent.name, agent.type, agent.workdir) == ("opencode", "sandboxed", "/home/agent/workspace")
    assert (agent.restart, agent.max_restarts, agent.timeout, agent.grace_period) == ("no", 0, None, 30)
    assert (agent.memory, agent.pid_limit, agent.session) == (2 << 30, 512, "opencode")
    assert (agent.env, agent.secrets, agent.interactive) == ({}, [], False)


def test_a_native_agent_has_no_limits_unless_given() -> None:
    agent = only(MINIMAL + 'type = "native"')
    assert (agent.memory, agent.pid_limit) == (None, None)
    agent = only(MINIMAL + 'type = "native"\nmemory = "1.5gib"\npid_limit = 9')
    assert (agent.memory, agent.pid_limit) == (3 << 29, 9)


def test_empty_text_and_zero_stand_for_absent_keys_as_the_original_writes_them() -> None:
    empty = "".join(
        f'{key} = ""\n'
        for key in ("name", "type", "prompt_file", "workdir", "restart", "timeout", "grace_period", "session", "memory")
    )
    agent = only(MINIMAL + empty + "pid_limit = 0\nmax_restarts = 0\nreplicas = 0\nextra_packages = []\n")
    assert (agent.name, agent.type, agent.restart, agent.grace_period) == ("opencode", "sandboxed", "no", 30)
    assert (agent.memory, agent.pid_limit, agent.timeout) == (2 << 30, 512, None)


def test_no_agents_is_an_answer_too() -> None:
    assert parse('mixtape = "base"\n').agents == []


@pytest.mark.parametrize(
    ("harness", "argv"),
    [
        ("claude-code", ["claude", "-p", "--model", "m", "--", "-do it"]),
        ("opencode", ["opencode", "run", "--model", "m", "--", "-do it"]),
        ("gemini-cli", ["gemini", "--model", "m", "--prompt=-do it"]),
        ("codex", ["codex", "exec", "--model", "m", "--", "-do it"]),
        ("custom", ["agent", "--model", "m", "-do it"]),
    ],
)
def test_a_headless_run_takes_the_form_that_finishes(harness: str, argv: list[str]) -> None:
    agent = only(f'[[agents]]\nharness = "{harness}"\nprompt = "-do it"\nargs = ["--model", "m"]\n')
    assert (agent.argv, agent.interactive) == (argv, False)


def test_a_native_agent_without_a_prompt_is_interactive() -> None:
    agent = only('[[agents]]\nharness = "claude-code"\ntype = "native"\nargs = ["--debug"]\n')
    assert (agent.argv, agent.interactive, agent.session) == (["claude", "--debug"], True, "claude-code")


def test_a_command_of_its_own_needs_no_prompt_and_gets_a_terminal_by_a_session() -> None:
    text = '[[agents]]\nharness = "custom"\ntype = "native"\ncommand = ["make", "all"]\n'
    assert (only(text).argv, only(text).interactive) == (["make", "all"], False)
    assert only(text + 'session = "shop"').interactive
    assert only(text + 'prompt = "x"').argv == ["make", "all", "x"]


def test_a_prompt_from_a_file_is_put_in_when_it_is_read() -> None:
    agent = only('[[agents]]\nharness = "opencode"\nprompt = "not this"\nprompt_file = "/workspace/task"\n')
    assert (agent.prompt_file, agent.interactive) == ("/workspace/task", False)
    told = agent.with_prompt("do that")
    assert (told.argv[-1], told.prompt_file) == ("do that", "")
    with pytest.raises(SpecError):
        agent.with_prompt("")  # of a sandboxed agent, which would have nobody to ask


def names(*tables: str) -> list[str]:
    return [agent.name for agent in parse("".join(f"[[agents]]\nprompt='p'\n{table}\n" for table in tables)).agents]


def test_replicas_are_counted_from_zero() -> None:
    assert names('name = "team"\nharness = "codex"\nreplicas = 3') == ["team-0", "team-1", "team-2"]
    assert names('harness = "codex"\nreplicas = 2') == ["codex-0", "codex-1"]
    assert names('name = "solo"\nharness = "codex"\nreplicas = 1') == ["solo"]
    assert names('name = "solo"\nharness = "codex"\nreplicas = -3') == ["solo"]


def test_unnamed_agents_of_one_harness_are_all_counted() -> None:
    assert names('harness = "codex"', 'harness = "codex"', 'harness = "opencode"') == ["codex-0", "codex-1", "opencode"]


def test_the_session_of_replicas_follows_their_names() -> None:
    text = '[[agents]]\nharness = "codex"\ntype = "native"\nname = "a"\nsession = "s"\nreplicas = 2\n'
    assert [agent.session for agent in parse(text).agents] == ["a-0", "a-1"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('name = "Upper"', "'Upper' is not 1 to 41"),
        ('name = "../x"', "is not 1 to 41"),
        ('type = "docker"', "type: is 'docker', not one of sandboxed, native"),
        ('restart = "sometimes"', "not one of no, on-failure, always"),
        ("max_restarts = -1", "max_restarts: is not a whole number"),
        ("max_restarts = true", "max_restarts: is not a whole number"),
        ('timeout = "soon"', "timeout: 'soon' is not a duration"),
        ('timeout = "-5s"', "is not a duration"),
        ('grace_period = "9999999h"', "longer than a year"),
        ('memory = "lots"', "memory: 'lots' is not a size"),
        ("memory = -1", "memory: is out of range"),
        ("pid_limit = 1.5", "pid_limit: is not a whole number"),
        ('workdir = "here"', "workdir: 'here' is not an absolute path"),
        ('prompt_file = "task.md"', "prompt_file: 'task.md' is not an absolute path"),
        ('extra_packages = ["cowsay"]', "the image is fixed; build a mixtape"),
        ('session = "s"', "session: is for native agents"),
        ('command = ["x"]', "command: is for the harness custom"),
        ('secrets = ["../x"]', "secrets: '../x' cannot be"),
        ("secrets = [1]", "secrets: is not a list"),
        ("env = { A = 1 }", "env: 'A' is not the name of a variable with a text"),
        ('env = { "A B" = "x" }', "env: 'A B' is not"),
        ('env = { A = "\\u0000" }', "env.A: has a null character"),
        ('args = ["\\u0000"]', "args: has a null character"),
        ("replicas = 65", "more than 64"),
        ('replicas = "two"', "replicas: is not a whole number"),
        ('restrat = "no"', "restrat: there is no such key"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(line: str, said: str) -> None:
    (problem,) = problems(MINIMAL + line + "\n")
    assert said in problem
    assert problem.startswith("agents")


def test_a_prompt_longer_than_an_argument_can_be_is_refused() -> None:
    assert "prompt: is longer than" in problems(MINIMAL.replace("work", "w" * 200_000))[0]


def test_a_sandboxed_agent_without_a_task_is_refused() -> None:
    assert "prompt: is needed" in problems('[[agents]]\nharness = "codex"\n')[0]


def test_all_faults_of_a_file_are_told_at_once() -> None:
    text = (
        '[[agents]]\nharness = "vi"\ntimeout = "x"\n[[agents]]\nname = "b"\nmemory = "y"\n[[shared]]\nguest = "rel"\n'
    )
    told = problems(text)
    assert [problem.partition(":")[0] for problem in told] == [
        "agents[0]",
        "agents[0]",
        "agents[0]",
        "agents[1] 'b'",
        "agents[1] 'b'",
        "agents[1] 'b'",
        "shared[0]",
    ]


def test_two_agents_of_one_name_are_refused() -> None:
    table = '[[agents]]\nname = "a-0"\nharness = "codex"\nprompt = "p"\n'
    assert "another agent called a-0" in problems(table + table.replace("a-0", "a") + "replicas = 2\n")[0]


@pytest.mark.parametrize(
    "text", ["x", "agents = 1", "agents = [1]", "[[agents]]\na=" + "[" * 5000, "x = " + "9" * 5000]
)
def test_what_is_no_jcard_is_refused(text: str) -> None:
    assert problems(text)


def test_shares_are_where_they_will_be() -> None:
    text = '[[shared]]\nhost = "/x"\nguest = "/workspace/"\n[[shared]]\nguest = "/ro"\nreadonly = true\n'
    assert parse(text).shares == [("/workspace", False), ("/ro", True)]


@given(st.integers(0, 400), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_durations_are_gos(hours: int, minutes: int, secs: int, millis: int) -> None:
    assert agentspec.seconds(f"{hours}h{minutes}m{secs}s{millis}ms") == pytest.approx(
        hours * 3600 + minutes * 60 + secs + millis / 1000
    )


@given(st.text(max_size=20))
def test_a_duration_or_size_is_understood_or_refused(text: str) -> None:
    for convert in (agentspec.seconds, agentspec.size):
        with suppress(ValueError):
            assert convert(text) >= 0


@pytest.mark.parametrize(("text", "value"), [("1KB", 1000), ("1 KiB", 1024), ("0.5gb", 500_000_000), ("7", 7)])
def test_sizes_are_read_in_both_kinds_of_units(text: str, value: int) -> None:
    assert agentspec.size(text) == value


_LEAF = st.one_of(
    *(st.none().map(lambda _: True), st.integers(-(2**40), 2**40), st.floats(allow_nan=False), st.text(max_size=30)),
    *(st.sampled_from(["native", "codex", "custom", "/x", "30s", "1GiB", "no"]), st.lists(st.text(max_size=5))),
    st.dictionaries(st.sampled_from(["A", "b c", ""]), st.text(max_size=5) | st.integers(), max_size=2),
)
_KEY = st.sampled_from(sorted(agentspec._KEYS)) | st.text(min_size=1, max_size=8)


@given(st.lists(st.dictionaries(_KEY, _LEAF, max_size=8), max_size=4))
def test_any_table_gives_agents_or_problems(tables: list[dict[str, Any]]) -> None:
    try:
        text = tomlkit.dumps({"agents": tables})
    except (ValueError, TypeError):
        return
    try:
        agents = parse(text).agents
    except SpecError:
        return
    for agent in agents:
        assert agentspec.NAME.fullmatch(agent.name)
        assert agent.argv or agent.prompt_file
    assert len({agent.name for agent in agents}) == len(agents)


@given(st.binary(max_size=200))
def test_no_text_breaks_the_parser(data: bytes) -> None:
    with suppress(SpecError):
        parse(data.decode("latin-1"))
