"""A jcard that is right: every key is accepted and has its effect, defaults are filled in, the guest gets its part."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from stereo.model.jcard import Jcard, NetworkMode, Protocol, guest_config, parse_jcard
from stereo.model.jcard_agents import AgentType, Restart
from stereo.model.mixtape_file import Harness
from stereo.model.units import GIB, MIB, duration_text, parse_duration, parse_size, size_text
from stereos_guest import agentspec

VARIABLES = {"HOME": "/home/caller", "KEY": "s3cret", "PLACE": "here"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project called `project`, with folders to share and a prompt."""
    project = tmp_path / "project"
    for name in ("src", "docs", "here"):
        (project / name).mkdir(parents=True)
    (project / "task.md").write_text("\n  mend the tests ✓\n")
    return project


def parsed(folder: Path, text: str) -> Jcard:
    return parse_jcard(text, folder / "jcard.toml", VARIABLES)


def agent(folder: Path, keys: str) -> dict[str, object]:
    """The one agent of a jcard, as the models have it."""
    (found,) = parsed(folder, f'[secrets]\nKEY = "${{KEY}}"\n[[agents]]\n{keys}').agents
    return found.model_dump()


def test_an_empty_jcard_has_the_defaults(folder: Path) -> None:
    jcard = parsed(folder, "")
    assert (jcard.name, jcard.mixtape, jcard.mixtape_digest) == ("project", "base:latest", None)
    assert (jcard.resources.cpus, jcard.resources.memory, jcard.resources.disk) == (2, 4 * GIB, 20 * GIB)
    assert (jcard.network.mode, jcard.network.forwards, jcard.network.rules) == (NetworkMode.NAT, (), None)
    assert (jcard.shared, jcard.secrets, jcard.agents, jcard.timeout.duration) == ((), {}, (), None)
    assert jcard.notes == ()


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ('mixtape = "coder"', "mixtape", "coder"),
        ('mixtape = "base-dev:2026.01.31.0"', "mixtape", "base-dev:2026.01.31.0"),
        (f'mixtape_digest = "sha256:{"a" * 64}"', "mixtape_digest", f"sha256:{'a' * 64}"),
        ('name = "other"', "name", "other"),
        ("[resources]\ncpus = 4", "resources.cpus", 4),
        ('[resources]\nmemory = "1.5 gib"', "resources.memory", 1536 * MIB),
        ("[resources]\nmemory = 1073741825", "resources.memory", 1025 * MIB),
        ('[resources]\ndisk = "20GB"', "resources.disk", 19074 * MIB),
        ('[network]\nmode = "none"', "network.mode", NetworkMode.NONE),
        ('[network]\nmode = "bridged"\nbridge = "br0"', "network.bridge", "br0"),
        ("[network]\negress_allow = []", "network.rules.texts", ()),
        (
            '[network]\negress_allow = ["a.example:1", "10.0.0.0/8"]',
            "network.rules.texts",
            ("a.example:1", "10.0.0.0/8"),
        ),
        ('[timeout]\nduration = "2h"', "timeout.duration", 7200.0),
        ('[secrets]\nA = "x${KEY}$${KEY}$"', "secrets", {"A": "xs3cret${KEY}$"}),
    ],
)
def test_every_key_has_its_effect(folder: Path, text: str, path: str, value: object) -> None:
    found: object = parsed(folder, text)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_a_mixtape_that_is_a_path_is_found_from_the_jcard(folder: Path) -> None:
    assert parsed(folder, 'mixtape = "./dist"').mixtape == str(folder / "dist")
    assert parsed(folder, 'mixtape = "/dist"').mixtape == "/dist"
    assert parsed(folder, 'mixtape = "~/dist"').mixtape == "/home/caller/dist"


def test_forwards_have_a_protocol(folder: Path) -> None:
    text = "[[network.forwards]]\nhost = 8080\nguest = 80\n[[network.forwards]]\nhost = 8080\nguest = 53\nproto = 'udp'"
    forwards = parsed(folder, text).network.forwards
    assert [(each.host, each.guest, each.proto) for each in forwards] == [
        (8080, 80, Protocol.TCP),
        (8080, 53, Protocol.UDP),
    ]


def test_tcp_is_forwarded_whatever_the_network(folder: Path) -> None:
    for network in ('mode = "none"', "egress_allow = []"):
        assert parsed(folder, f"[network]\n{network}\nforwards = [{{ host = 1, guest = 2 }}]").network.forwards


def test_shares_are_found_from_the_jcard_and_home(folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to("src")
    text = """
        [[shared]]
        host = "./link"
        guest = "/workspace"
        [[shared]]
        host = "${PLACE}"
        guest = "/home/agent/here"
        readonly = true
        [[shared]]
        host = "~/"
        guest = "/mnt/caller"
    """
    shares = parse_jcard(text, folder / "jcard.toml", {**VARIABLES, "HOME": str(tmp_path)}).shared
    assert [(each.host, each.guest, each.readonly) for each in shares] == [
        (folder / "src", "/workspace", False),
        (folder / "here", "/home/agent/here", True),
        (tmp_path, "/mnt/caller", False),
    ]


@pytest.mark.parametrize(
    ("keys", "name", "value"),
    [
        ('harness = "opencode"\nprompt = "x"', "name", "opencode"),
        ('harness = "opencode"\nprompt = "x"', "type", AgentType.SANDBOXED),
        ('harness = "claude-code"\ntype = "native"', "type", AgentType.NATIVE),
        ('harness = "gemini-cli"\nname = "g"\nprompt = "x"', "name", "g"),
        ('harness = "codex"\nprompt = "x"', "harness", Harness.CODEX),
        ('harness = "custom"\ncommand = ["sh", "-c", "true"]', "command", ("sh", "-c", "true")),
        ('harness = "opencode"\nprompt = "x"\nargs = ["--model", "m"]', "args", ("--model", "m")),
        ('harness = "opencode"\nprompt_file = "task.md"', "prompt", "mend the tests ✓"),
        ('harness = "opencode"\nprompt = "x"\nprompt_file = "./task.md"', "prompt", "mend the tests ✓"),
        ('harness = "opencode"\nprompt = "x"', "workdir", "/home/agent/workspace"),
        ('harness = "opencode"\nprompt = "x"\nworkdir = "/workspace"', "workdir", "/workspace"),
        ('harness = "opencode"\nprompt = "x"\nsecrets = ["KEY"]', "secrets", ("KEY",)),
        ('harness = "opencode"\nprompt = "x"\nenv = { A = "${PLACE}/x", B = "" }', "env", {"A": "here/x", "B": ""}),
        ('harness = "opencode"\nprompt = "x"\nrestart = "on-failure"', "restart", Restart.ON_FAILURE),
        ('harness = "opencode"\nprompt = "x"\nmax_restarts = 3', "max_restarts", 3),
        ('harness = "opencode"\nprompt = "x"', "timeout", None),
        ('harness = "opencode"\nprompt = "x"\ntimeout = "1h30m"', "timeout", 5400.0),
        ('harness = "opencode"\nprompt = "x"', "grace_period", 30.0),
        ('harness = "opencode"\nprompt = "x"\ngrace_period = "0"', "grace_period", 0.0),
        ('harness = "opencode"\ntype = "native"\nsession = "main"', "session", "main"),
        ('harness = "opencode"\nprompt = "x"\nmemory = "512MiB"', "memory", 512 * MIB),
        ('harness = "opencode"\nprompt = "x"\npid_limit = 64', "pid_limit", 64),
        ('harness = "opencode"\nprompt = "x"\nextra_packages = []', "extra_packages", ()),
    ],
)
def test_every_key_of_an_agent_has_its_effect(folder: Path, keys: str, name: str, value: object) -> None:
    assert agent(folder, keys)[name] == value


def test_agents_work_in_the_first_share_unless_told_otherwise(folder: Path) -> None:
    text = """
        agents = [{ harness = "codex", prompt = "x" }, { harness = "opencode", prompt = "x", workdir = "/docs" }]
        shared = [{ host = "src", guest = "/workspace" }, { host = "docs", guest = "/docs" }]
    """
    assert [each.workdir for each in parsed(folder, text).agents] == ["/workspace", "/docs"]


@pytest.mark.parametrize(
    ("agents", "names"),
    [
        ('{ harness = "codex" }', ["codex"]),
        ('{ harness = "codex" }, { harness = "opencode" }', ["codex", "opencode"]),
        ('{ harness = "codex" }, { harness = "codex" }', ["codex-0", "codex-1"]),
        ('{ harness = "codex", replicas = 2 }, { harness = "codex" }', ["codex-0", "codex-1", "codex-2"]),
        ('{ harness = "codex", name = "a", replicas = 3 }', ["a-0", "a-1", "a-2"]),
        ('{ harness = "codex", name = "a" }, { harness = "codex" }', ["a", "codex"]),
    ],
)
def test_replicas_and_unnamed_agents_are_named(folder: Path, agents: str, names: list[str]) -> None:
    text = "agents = [" + agents.replace("{ ", '{ type = "native", ') + "]"
    jcard = parsed(folder, text)
    assert [each.name for each in jcard.agents] == names
    written = tomllib.loads(text)
    assert [each.name for each in agentspec.parse(guest_config(jcard)).agents] == sorted(names)
    assert len(written["agents"]) <= len(names)


def test_replicas_do_not_share_a_session(folder: Path) -> None:
    text = 'agents = [{ harness = "codex", type = "native", name = "a", session = "s", replicas = 2 }]'
    assert [each.session for each in parsed(folder, text).agents] == ["a-0", "a-1"]


WHOLE = """
[[shared]]
host = "src"
guest = "/home/agent/src"
[[shared]]
host = "docs"
guest = "/home/agent/docs"
readonly = true
[secrets]
KEY = "${KEY}"
OTHER = "0th3r"
[[agents]]
harness = "opencode"
prompt_file = "task.md"
secrets = ["KEY", "KEY"]
env = { "A" = "a\\"'\\n$\\\\", B = "" }
args = ["--model", "m m"]
restart = "on-failure"
max_restarts = 3
timeout = "1m30.5s"
grace_period = "250ms"
memory = "1.5GiB"
pid_limit = 100
[[agents]]
name = "tty"
type = "native"
harness = "custom"
command = ["bash", "-l"]
session = "main"
workdir = "/home/agent"
replicas = 2
"""


def test_the_guest_understands_what_it_gets(folder: Path) -> None:
    jcard = parsed(folder, WHOLE)
    config = agentspec.parse(guest_config(jcard))
    assert config.shares == [("/home/agent/src", False), ("/home/agent/docs", True)]
    sent = {each.name: each for each in jcard.agents}
    assert [each.name for each in config.agents] == ["opencode", "tty-0", "tty-1"]
    for got in config.agents:
        meant = sent[got.name]
        assert (got.type, got.harness, got.prompt) == (meant.type, meant.harness, meant.prompt)
        assert (got.workdir, got.restart, got.max_restarts) == (meant.workdir, meant.restart, meant.max_restarts)
        assert (got.timeout, got.grace_period) == (meant.timeout, meant.grace_period)
        assert (got.env, got.secrets) == (meant.env, list(dict.fromkeys(meant.secrets)))
        assert (got.command, got.args) == (list(meant.command), list(meant.args))
        assert got.interactive == meant.interactive
    assert (config.agents[0].memory, config.agents[0].pid_limit) == (1536 * MIB, 100)
    assert config.agents[0].prompt == "mend the tests ✓"


def test_the_guest_gets_no_secret_and_nothing_of_the_host(folder: Path) -> None:
    text = guest_config(parsed(folder, WHOLE))
    assert "s3cret" not in text
    assert "0th3r" not in text
    assert str(folder) not in text
    assert not {"secrets", "network", "resources"} & tomllib.loads(text).keys()


def test_a_jcard_shows_no_secret_when_it_is_printed(folder: Path) -> None:
    assert "s3cret" not in repr(parsed(folder, WHOLE))


def test_what_is_perhaps_not_meant_is_noted(folder: Path) -> None:
    text = """
        secrets = { A = "x", B = "", "c.d" = "y" }
        agents = [{ harness = "codex", prompt = "x", secrets = ["B", "c.d"], env = { MY_TOKEN = "t" } }]
    """
    notes = parsed(folder, text).notes
    assert [note for note in notes if "no agent lists the secret A" in note]
    assert [note for note in notes if "B is empty" in note]
    assert [note for note in notes if "c.d" in note and "file" in note]
    assert [note for note in notes if "MY_TOKEN" in note]
    assert len(notes) == 4


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(prompt=WORDS.filter(str.strip), args=st.lists(WORDS, max_size=3), env=st.dictionaries(st.just("A"), WORDS))
def test_any_words_reach_the_guest_as_they_were_written(prompt: str, args: list[str], env: dict[str, str]) -> None:
    plain = {key: value.replace("${", "$${") for key, value in env.items()}
    table = {"harness": "codex", "prompt": prompt, "args": args, "env": plain}
    text = tomlkit.dumps({"name": "x", "agents": [table]})
    jcard = parse_jcard(text, Path("/nowhere/jcard.toml"), {})
    (got,) = agentspec.parse(guest_config(jcard)).agents
    assert (got.prompt, got.args, got.env) == (prompt, args, env)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1", 1), ("1B", 1), ("1kb", 1000), ("1KiB", 1024), ("0.5 MiB", 512 * 1024), ("2TiB", 2 << 40), (7, 7)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1X", "1 000", "-1", "1K", "1iB", "1e3", "1.GiB", "٣GiB", True, None, 1.5])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@given(st.integers(0, 2**63))
def test_a_size_is_told_exactly(size: int) -> None:
    assert parse_size(size_text(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("30s", 30), ("1h30m", 5400), ("1.5s", 1.5), (".5s", 0.5), ("100ms", 0.1), ("2us", 2e-6)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1 s", "1d", "1h 2m", "1e3s", "٣s", 30, True, None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@given(st.integers(0, 10**15))
def test_a_duration_is_told_to_the_nanosecond(nanoseconds: int) -> None:
    assert parse_duration(duration_text(nanoseconds / 1e9)) == pytest.approx(nanoseconds / 1e9, abs=1e-9)
