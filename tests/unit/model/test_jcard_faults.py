"""A jcard that is wrong: each fault names its key and what to do, all come at once, and no secret stands in any."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from stereo.errors import Problem, ProblemsError
from stereo.model.jcard import Jcard, parse_jcard
from stereo.model.jcard_values import MountPoint
from stereos_guest import mounts

VARIABLES = {"HOME": "/home/caller", "KEY": "hunter2", "BROKEN": "\udcff"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project called `project`, with folders to share."""
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "docs").mkdir()
    return project


def problems(folder: Path, text: str | bytes) -> list[Problem]:
    with pytest.raises(ProblemsError) as caught:
        parse_jcard(text, folder / "jcard.toml", VARIABLES)
    return list(caught.value.problems)


def one(folder: Path, text: str) -> Problem:
    (problem,) = problems(folder, text)
    return problem


def agent(keys: str) -> str:
    return f'secrets = {{ KEY = "x" }}\n[[agents]]\nharness = "opencode"\n{keys}'


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("mixtap = 'x'", "mixtap", "did you mean 'mixtape'?"),
        ("[resource]\ncpus = 1", "resource", "did you mean 'resources'?"),
        ("[resources]\ncpu = 1", "resources.cpu", "did you mean 'cpus'?"),
        ("[network]\negress_alow = []", "network.egress_alow", "did you mean 'egress_allow'?"),
        ("[[network.forwards]]\nhost = 1\nguest = 1\nport = 3", "network.forwards[0].port", "unknown key"),
        ("[timeout]\nduratoin = '1h'", "timeout.duratoin", "did you mean 'duration'?"),
        ("[agent]\nharness = 'codex'", "agent", "did you mean 'agents'?"),
        ("mixtape = 'a b'", "mixtape", "NAME:VERSION"),
        ("mixtape = 'a/b'", "mixtape", "NAME:VERSION"),
        ("mixtape = 'a..b'", "mixtape", "NAME:VERSION"),
        ("mixtape = 'A'", "mixtape", "NAME:VERSION"),
        ("mixtape = 'a:'", "mixtape", "NAME:VERSION"),
        ('mixtape = "./a\\u001b"', "mixtape", "printable"),
        ("mixtape_digest = 'abc'", "mixtape_digest", "sha256:"),
        ("name = 'A B'", "name", "lower-case letters"),
        ("name = '../up'", "name", "lower-case letters"),
        (f"name = '{'a' * 42}'", "name", "at most 41"),
        ("name = '-a'", "name", "lower-case letters"),
        ("[resources]\ncpus = 0", "resources.cpus", "greater than or equal to 1"),
        ("[resources]\nmemory = '1MiB'", "resources.memory", "must be from 256MiB to 16TiB, not 1MiB"),
        ("[resources]\nmemory = 'much'", "resources.memory", "is no size"),
        ("[resources]\ndisk = true", "resources.disk", "is no size"),
        ("network = 'nat'", "network", "must be a table"),
        ("agents = 8", "agents", "must be a list, not 8"),
        ("network.egress_allow = 'x'", "network.egress_allow", "must be a list, not 'x'"),
        ("[network]\nmode = 'natt'", "network.mode", "did you mean 'nat'?"),
        ("[network]\nmode = 'bridged'", "network.bridge", "is missing"),
        ("[network]\nbridge = 'br0'", "network.bridge", "no use with mode 'nat'"),
        ("[network]\nmode = 'bridged'\nbridge = '../x'", "network.bridge", "network interface"),
        ("[network]\nmode = 'none'\negress_allow = ['a.example']", "network.egress_allow", "cannot reach"),
        ("[network]\nmode = 'bridged'\nbridge = 'b'\negress_allow = []", "network.egress_allow", "on a bridge"),
        ("[network]\negress_allow = ['a.example', 3]", "network.egress_allow[1]", "in quotes"),
        ("[network]\negress_allow = ['http://a']", "network.egress_allow[0]", "its host alone"),
        ("[network]\negress_allow = ['host.stereo.internal']", "network.egress_allow[0]", "host.stereo.internal:PORT"),
        ("[network]\nforwards = [{host=0, guest=1}]", "network.forwards[0].host", "greater than or equal to 1"),
        ("[network]\nforwards = [{host=1, guest=65536}]", "network.forwards[0].guest", "less than or equal to 65535"),
        ("[network]\nforwards = [{host=1}]", "network.forwards[0].guest", "is missing"),
        ("[network]\nforwards = [{host=1,guest=1,proto='sctp'}]", "network.forwards[0].proto", "known: "),
        ("[network]\nforwards = [{host=1,guest=1}, {host=1,guest=2}]", "network.forwards[1].host", "already taken"),
        (
            "[network]\nmode='none'\nforwards=[{host=1,guest=1,proto='udp'}]",
            "network.forwards[0].proto",
            "UDP finds no way",
        ),
        (
            "[network]\negress_allow=[]\nforwards=[{host=1,guest=1,proto='udp'}]",
            "network.forwards[0].proto",
            "UDP finds no way",
        ),
        ("[timeout]\nduration = '0s'", "timeout.duration", "leave it out"),
        ("[timeout]\nduration = '9000h'", "timeout.duration", "longer than 8784 hours"),
        ("[timeout]\nduration = 30", "timeout.duration", "is no duration"),
        ("[secrets]\nA = '${NOT_SET}'", "secrets.A", "the variable NOT_SET is not set"),
        ("[secrets]\nA = '${'", "secrets.A", "without a variable's name"),
        ("[secrets]\nA = '${A B}'", "secrets.A", "without a variable's name"),
        ("[secrets]\n'a/b' = 'x'", "secrets.'a/b'", "a variable's name"),
        ("[secrets]\n'..' = 'x'", "secrets.'..'", "a variable's name"),
        ("[secrets]\n'a..b' = 'x'", "secrets.'a..b'", "holds '..'"),
        ("[secrets]\n'a.new' = 'x'", "secrets.'a.new'", "keeps it as a file"),
        ("[secrets]\nA = '${BROKEN}'", "secrets.A", "is not UTF-8"),
        (f"[secrets]\nA = '{'x' * 70_000}'", "secrets.A", "longer than 64 KiB"),
        ('[secrets]\nA = "\\u0000"', "secrets.A", "NUL"),
    ],
)
def test_a_fault_names_its_key_and_the_remedy(folder: Path, text: str, key: str, said: str) -> None:
    problem = one(folder, text)
    assert problem.key == key
    assert said in f"{problem.message} ({problem.hint})"


@pytest.mark.parametrize(
    ("keys", "key", "said"),
    [
        ("prompt = 'x'\npromt = 'y'", "promt", "did you mean 'prompt'?"),
        ("name = 'A'\nprompt = 'x'", "name", "lower-case"),
        ("type = 'naitve'\nprompt = 'x'", "type", "did you mean 'native'?"),
        ("prompt = 3", "prompt", "string"),
        ("", "prompt", "only a native agent has a terminal"),
        ("prompt_file = 'none.md'", "prompt_file", "does not exist"),
        ("prompt_file = 'src'", "prompt_file", "cannot be read: Is a directory"),
        ("prompt_file = 'pipe'", "prompt_file", "no regular file"),
        ("prompt_file = 'empty.md'", "prompt_file", "is empty"),
        ("prompt_file = 'binary.md'", "prompt_file", "is not UTF-8"),
        ("prompt_file = 'long.md'", "prompt_file", "let the agent read it from a share"),
        ("prompt_file = '~other/x'", "prompt_file", "only one's own is known"),
        ("prompt_file = ''", "prompt_file", "is empty"),
        (f"prompt = '{'x' * 100_001}'", "prompt", "let the agent read it from a share"),
        ('prompt = "a\\u0000b"', "prompt", "NUL"),
        ("prompt = 'x'\nworkdir = 'work'", "workdir", "a whole path"),
        ("prompt = 'x'\nworkdir = '/a/../b'", "workdir", "a whole path"),
        ("prompt = 'x'\nrestart = 'never'", "restart", "known: "),
        ("prompt = 'x'\nmax_restarts = -1", "max_restarts", "greater than or equal to 0"),
        ("prompt = 'x'\ntimeout = '0s'", "timeout", "leave it out"),
        ("prompt = 'x'\ntimeout = '-1s'", "timeout", "is no duration"),
        ("prompt = 'x'\ngrace_period = 'long'", "grace_period", "is no duration"),
        ("type = 'native'\nsession = 'a:b'", "session", "lower-case"),
        ("prompt = 'x'\nsession = 's'", "session", "is for native agents"),
        ("prompt = 'x'\nmemory = '1KiB'", "memory", "must be from 16MiB to 4TiB, not 1KiB"),
        ("prompt = 'x'\npid_limit = -1", "pid_limit", "greater than or equal to 0"),
        ("prompt = 'x'\nreplicas = 0", "replicas", "greater than or equal to 1"),
        ("prompt = 'x'\nreplicas = 65", "replicas", "less than or equal to 64"),
        ("prompt = 'x'\nextra_packages = ['vim']", "extra_packages", "in a mixtape"),
        ("prompt = 'x'\nsecrets = ['KEI']", "secrets[0]", "did you mean 'KEY'?"),
        ("prompt = 'x'\nenv = { 'A-B' = 'x' }", "env.A-B", "environment variable"),
        ("prompt = 'x'\nenv = { A = 1 }", "env.A", "in quotes"),
        ("prompt = 'x'\nenv = { A = '${NOT_SET}' }", "env.A", "the variable NOT_SET is not set"),
        ("prompt = 'x'\ncommand = ['sh']", "command", "is for the harness 'custom'"),
    ],
)
def test_a_fault_of_an_agent_names_its_key_and_the_remedy(folder: Path, keys: str, key: str, said: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "empty.md").write_text(" \n")
    (folder / "binary.md").write_bytes(b"\xff")
    (folder / "long.md").write_text("x" * 100_001)
    problem = one(folder, agent(keys))
    assert problem.key == f"agents[0].{key}"
    assert said in f"{problem.message} ({problem.hint})"


def test_a_harness_is_needed(folder: Path) -> None:
    assert one(folder, "agents = [{ prompt = 'x' }]").key == "agents[0].harness"
    assert "starts nothing" in one(folder, "agents = [{ prompt = 'x', harness = 'none' }]").message
    assert "did you mean 'codex'?" in str(one(folder, "agents = [{ prompt = 'x', harness = 'codx' }]"))
    assert "name the program" in str(one(folder, "agents = [{ harness = 'custom', command = [''] }]"))


@pytest.mark.parametrize(
    ("agents", "key", "said"),
    [
        ("{ name = 'a' }, { name = 'a' }", "agents[1].name", "agents[0] is also called 'a'"),
        ("{ name = 'a', replicas = 2 }, { name = 'a-1' }", "agents[1].name", "agents[0] is also called 'a-1'"),
        ("{ name = 'a', session = 's' }, { name = 'b', session = 's' }", "agents[1].session", "'a' also has"),
        (f"{{ name = '{'a' * 41}', replicas = 2 }}", "agents[0].name", "too long with its number"),
        ("{ replicas = 40 }, { replicas = 40 }", "agents", "more than 64 agents"),
    ],
)
def test_agents_that_do_not_go_together(folder: Path, agents: str, key: str, said: str) -> None:
    found = problems(folder, "agents = [" + agents.replace("{ ", "{ harness = 'codex', type = 'native', ") + "]")
    assert (found[0].key, len({problem.key for problem in found})) == (key, 1)
    assert said in found[0].message


@pytest.mark.parametrize(
    ("guest", "said"),
    [
        *((path, "belongs to the guest's system") for path in ("/", "/home", "/usr", "/usr/local", "/lib", "/lib64/x")),
        *((path, "belongs to the guest's system") for path in ("/etc/x", "/run/x", "/proc", "/sys", "/dev", "/boot")),
        *((path, "belongs to the guest's system") for path in ("/bin", "/sbin", "/var/x", "/root", "/nix", "/tmp")),
        *((path, "belongs to the guest's system") for path in ("/state", "/verified/x", "/library")),
        ("/home/admin", "is another user's"),
        ("/home/admin/x", "is another user's"),
        *((path, "a whole path") for path in ("x", "", "/a/", "//a", "/a//b", "/a/../b", "/a/.", "./a")),
        *((path, "printable") for path in ("/a\\n", f"/{'a' * 256}", "/a" * 600)),
    ],
)
def test_where_nothing_is_mounted(folder: Path, guest: str, said: str) -> None:
    problem = one(folder, f'shared = [{{ host = "src", guest = "{guest}" }}]')
    assert problem.key == "shared[0].guest"
    assert said in problem.message


@pytest.mark.parametrize("guest", ["/workspace", "/home/agent/x", "/mnt/x", "/opt/x", "/usrx", "/home/agent"])
def test_where_shares_may_be(folder: Path, guest: str) -> None:
    text = f'shared = [{{ host = "src", guest = "{guest}" }}]'
    assert parse_jcard(text, folder / "jcard.toml", {}).shared[0].guest == guest


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("none", "does not exist"),
        ("file", "is no folder"),
        ("loop", "cannot be used"),
        ("${NOT_SET}/x", "the variable NOT_SET is not set"),
        ("~other", "only one's own is known"),
        ("", "is empty"),
        ("file/x", "cannot be used"),
        ("a" * 300, "cannot be used"),
        ("a\\u0000", "NUL"),
    ],
)
def test_what_cannot_be_shared(folder: Path, host: str, said: str) -> None:
    (folder / "file").write_text("")
    (folder / "loop").symlink_to("loop")
    problem = one(folder, f'shared = [{{ host = "{host}", guest = "/x" }}]')
    assert problem.key == "shared[0].host"
    assert said in problem.message


def test_home_that_is_not_known_is_a_fault(folder: Path) -> None:
    for text in ("shared = [{ host = '~/x', guest = '/x' }]", "mixtape = '~/x'"):
        with pytest.raises(ProblemsError, match="HOME is not set"):
            parse_jcard(text, folder / "jcard.toml", {})


@pytest.mark.parametrize(
    ("one_path", "other", "said"),
    [("/a", "/a", "already at"), ("/a", "/a/b", "lie in each other"), ("/a/b", "/a", "lie in each other")],
)
def test_shares_do_not_cover_each_other(folder: Path, one_path: str, other: str, said: str) -> None:
    text = f"shared = [{{ host = 'src', guest = '{one_path}' }}, {{ host = 'docs', guest = '{other}' }}]"
    problem = one(folder, text)
    assert problem.key == "shared[1].guest"
    assert said in problem.message


def test_a_folder_that_is_no_name_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "My Project").mkdir()
    problem = one(tmp_path / "My Project", "")
    assert (problem.key, problem.hint) == ("name", 'write name = "..."')
    assert "'My Project'" in problem.message


def test_all_faults_come_at_once(folder: Path) -> None:
    text = """
        name = "A"
        mixtap = "x"
        network = { mode = "none", egress_allow = ["a.example", "*"] }
        shared = [{ host = "none", guest = "/etc" }]
        secrets = { A = "${NOT_SET}" }
        [[agents]]
        harnes = "x"
        [[agents]]
        harness = "codex"
        prompt = "x"
        timeout = "x"
    """
    assert {problem.key for problem in problems(folder, text)} == {
        *("name", "mixtap", "network.egress_allow[1]", "shared[0].host", "shared[0].guest", "secrets.A"),
        *("agents[0].harnes", "agents[0].harness", "agents[1].timeout"),
    }


def test_several_faults_of_one_list_come_at_once(folder: Path) -> None:
    text = agent("prompt = 'x'\nname = 'a'\nsecrets = ['X', 'KEY', 'Y']\n")
    text += "[[agents]]\nharness = 'codex'\nprompt = 'y'\nname = 'a'"
    found = {problem.key for problem in problems(folder, text)}
    assert {"agents[0].secrets[0]", "agents[0].secrets[2]", "agents[1].name"} == found


@pytest.mark.parametrize(
    "text",
    [
        "[secrets]\nA = 42424242",
        "[secrets]\nA = ['hunter2']",
        "[secrets]\nA = { B = 'hunter2' }",
        "secrets = 'hunter2'",
        "secrets = ['hunter2']",
        "secrets = 42424242",
        "[[secrets]]\nA = 'hunter2'",
        "[secret]\nA = 'hunter2'",
        "[secrets]\nA = 'hunter2${X}'",
        "[secrets]\nA = 'hunter2${KEY}${'",
        '[secrets]\nA = "hunter2\\u0000"',
        "[secrets]\nA.B = 'hunter2'",
        "[secrets]\n'a b' = 'hunter2'",
        "[secrets]\n" + "\n".join(f"A{number} = 'hunter2'" for number in range(101)),
        "name = 3\n[secrets]\nA = 'hunter2'",
        "[network]\nmode = 'bridged'\n[secrets]\nA = 'hunter2'",
        "[secrets]\nA = 'hunter2",
        "[secrets]\nA = hunter2",
        "agents = [{ harness = 'codex', env = { A = 42424242 } }]",
    ],
)
def test_no_value_of_a_secret_stands_in_a_message(folder: Path, text: str) -> None:
    with pytest.raises(ProblemsError) as caught:
        parse_jcard(text, folder / "jcard.toml", VARIABLES)
    told = "\n".join(map(str, caught.value.problems)) + "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told
    assert "42424242" not in told


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff", "not UTF-8"),
        (b"a =", "not TOML"),
        (b"a = 1\na = 2", "not TOML"),
        (b"#" * (300 << 10), "larger than 256 KiB"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_toml_is_told(folder: Path, data: bytes, said: str) -> None:
    assert said in str(problems(folder, data)[0])


def test_what_the_guest_could_not_take_is_refused(folder: Path) -> None:
    (folder / "long.md").write_text("x" * 90_000)
    problem = one(folder, "agents = [{ harness = 'codex', prompt_file = 'long.md', replicas = 5 }]")
    assert "more than 400 KiB" in problem.message


def test_text_that_no_file_has_is_told(folder: Path) -> None:
    for text in ("name = '\ud800'", "name = '\udcff'"):
        assert "not UTF-8" in str(problems(folder, text)[0])


def test_the_last_resort_of_a_hint_is_the_page_on_jcards(folder: Path) -> None:
    assert "docs/jcard.md" in str(problems(folder, b"a = " + b"[" * 100_000)[0])


@given(
    st.lists(
        st.sampled_from(["tmp", "home", "agent", "lib", "usr", "a", ".", "..", "", "mnt"]) | st.text(max_size=4)
    ).map(lambda parts: "/" + "/".join(parts))
)
def test_where_we_mount_the_guest_lets_us(path: str) -> None:
    try:
        accepted = TypeAdapter(MountPoint).validate_python(path)
    except ValidationError:
        return
    assert mounts.checked(accepted) == path


KEYS = st.sampled_from(
    sorted(
        {
            *Jcard.model_fields,
            *("host", "guest", "readonly", "proto", "mode", "bridge", "forwards", "egress_allow", "duration", "cpus"),
            *("memory", "disk", "harness", "prompt", "prompt_file", "secrets", "env", "replicas", "command", "type"),
        }
    )
)
LEAVES = (
    st.none().map(lambda _: "")
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats()
    | st.text(max_size=12)
    | st.datetimes()
    | st.sampled_from(
        ["nat", "none", "codex", "native", "30s", "1GiB", "/x", "src", "${KEY}", "${X}", "~", "a.example"]
    )
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
WHOLE: dict[str, Any] = {
    "mixtape": "base",
    "name": "x",
    "resources": {"cpus": 2, "memory": "1GiB", "disk": "20GiB"},
    "network": {"mode": "nat", "egress_allow": ["a.example:1"], "forwards": [{"host": 1, "guest": 2, "proto": "tcp"}]},
    "shared": [{"host": "src", "guest": "/workspace", "readonly": True}, {"host": "docs", "guest": "/docs"}],
    "secrets": {"KEY": "${KEY}"},
    "agents": [
        {"harness": "codex", "prompt": "x", "secrets": ["KEY"], "env": {"A": "b"}, "timeout": "1h", "replicas": 2},
        {"harness": "custom", "type": "native", "command": ["sh"], "session": "s", "memory": "1GiB", "args": ["a"]},
    ],
    "timeout": {"duration": "2h"},
}


def altered(value: Any, path: list[int], other: Any) -> Any:
    """`value` with what lies at `path`, a number for each level, replaced by `other`."""
    if not path or not isinstance(value, dict | list) or not value:
        return other
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    chosen = keys[path[0] % len(keys)]
    changed = {key: altered(value[key], path[1:], other) if key == chosen else value[key] for key in keys}
    return changed if isinstance(value, dict) else list(changed.values())


FIELDS = st.dictionaries(KEYS | st.text(max_size=5), VALUES, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=FIELDS)
def test_whatever_toml_says_is_a_jcard_or_problems(folder: Path, table: dict[str, Any]) -> None:
    with suppress(ProblemsError):
        parse_jcard(tomlkit.dumps(table), folder / "jcard.toml", VARIABLES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(path=st.lists(st.integers(0, 9), min_size=1, max_size=4), other=VALUES)
def test_whatever_stands_in_place_of_a_value_is_a_jcard_or_problems(folder: Path, path: list[int], other: Any) -> None:
    with suppress(ProblemsError):
        parse_jcard(tomlkit.dumps(altered(WHOLE, path, other)), folder / "jcard.toml", VARIABLES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.text(st.characters(), max_size=200))
def test_whatever_bytes_are_a_jcard_or_problems(folder: Path, data: bytes | str) -> None:
    with suppress(ProblemsError):
        parse_jcard(data, folder / "jcard.toml", VARIABLES)
