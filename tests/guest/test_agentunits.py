"""What systemd is told about an agent, word by word."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from makers.agents import table
from stereos_guest import agentunits
from stereos_guest.agentspec import AgentSpec, parse


def lines(spec: AgentSpec, shares: list[tuple[str, bool]] | None = None) -> list[str]:
    argv, settings, _ = agentunits.native(spec, shares or [])
    return agentunits.unit(spec, argv, settings).splitlines()


def spec(more: str = "", command: str = "sleep 9") -> AgentSpec:
    (agent,) = parse(table("a", command, more)).agents
    return agent


def unquoted(word: str) -> str:
    """As systemd reads one quoted word: C escapes, then specifiers (systemd.syntax(7), systemd.unit(5))."""
    assert word[0] == word[-1] == '"'
    assert not re.search(r"[\x00-\x1f\x7f]", word)
    text = re.sub(
        r'\\(x[0-9a-f]{2}|["\\])|"',
        lambda found: chr(int(found[1][1:], 16)) if len(found[1]) > 1 else found[1],
        word[1:-1],
    )
    assert "%" not in text.replace("%%", "")
    return text.replace("%%", "%")


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=80))
def test_a_word_comes_out_of_the_unit_file_as_it_went_in(text: str) -> None:
    assert unquoted(agentunits.quote(text)) == text


def test_what_an_agent_is_given_and_denied() -> None:
    found = lines(
        spec(
            'restart = "on-failure"\nmax_restarts = 2\ntimeout = "90s"\n'
            'grace_period = "5s"\nmemory = "1MiB"\npid_limit = 7'
        )
    )
    for line in (
        *("Restart=on-failure", "RuntimeMaxSec=90.000s", "TimeoutStopSec=35.000s", "MemoryMax=1048576", "TasksMax=7"),
        *("User=agent", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "PrivatePIDs=yes", "KillMode=mixed"),
        *("Slice=stereos-agents.slice", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
        "ExecStartPre=+/usr/lib/stereos/agent-event starting a",
        "ExecStopPost=+/usr/lib/stereos/agent-event ended a on-failure 2",
    ):
        assert line in found
    start = next(line for line in found if line.startswith("ExecStart="))
    assert start == ('ExecStart=:"/usr/lib/stereos/agent-run" "5.000" "/home/agent/workspace" "" "--" "sleep" "9"')


def test_no_limit_is_set_that_was_not_asked_for() -> None:
    assert not [line for line in lines(spec()) if line.startswith(("MemoryMax", "TasksMax", "RuntimeMaxSec"))]


def test_secrets_are_named_and_never_told() -> None:
    found = lines(spec('secrets = ["KEY", "a.file", "TAKEN"]\nenv = { TAKEN = "mine", OPEN = "s3cr3t" }'))
    assert "LoadCredential=KEY:/run/stereos/secrets/KEY" in found
    assert "LoadCredential=a.file:/run/stereos/secrets/a.file" in found
    assert any('"--"' in line and '"KEY"' in line for line in found)  # neither one that is no variable nor one of env
    assert "s3cr3t" not in "\n".join(found)


def test_variables_of_the_jcard_reach_the_agent_alone() -> None:
    """As settings of the unit they would be those of root's programs in it as well: LD_PRELOAD, for one."""
    agent = spec('env = { LD_PRELOAD = "/home/agent/x.so", B = "two\\nlines" }')
    _, _, files = agentunits.native(agent, [])
    assert files == {"/run/stereos/agents/a/environment": "B=two\nlines\0LD_PRELOAD=/home/agent/x.so\0"}
    assert not [line for line in lines(agent) if "PRELOAD" in line]
    assert "OpenFile=/run/stereos/agents/a/environment:environment:read-only" in lines(agent)


def test_shares_are_writable_unless_read_only() -> None:
    found = lines(spec(), [("/work space", False), ("/ro", True)])
    assert 'ReadWritePaths="-/home/agent" "-/work space"' in found


def test_an_interactive_agent_gets_a_terminal_of_its_own() -> None:
    start = next(line for line in lines(spec('session = "shop"', "vi")) if line.startswith("ExecStart="))
    assert start.endswith('"/usr/lib/stereos/agent-terminal" "/run/agentd/a/tmux" "shop" "vi"')


@pytest.mark.parametrize("grace", ["0s", "10m"])
def test_systemd_leaves_more_time_than_the_grace_period(grace: str) -> None:
    agent = spec(f'grace_period = "{grace}"')
    assert f"TimeoutStopSec={agent.grace_period + 30:.3f}s" in lines(agent)
