"""Whom a registry may involve: the table of what it may point at, and what of it is refused."""

from __future__ import annotations

import pytest

from stereo.errors import UsageError
from stereo.registry.errors import Denied
from stereo.registry.hosts import Hosts, config_keys, is_inside, permitted_hosts

PUBLIC = Hosts("registry.example", "https")
LOCAL = Hosts("127.0.0.1:5000", "http")
BASE = "https://registry.example/v2/a/blobs/x"


@pytest.mark.parametrize(
    ("hosts", "location"),
    [
        (PUBLIC, "/other"),
        (PUBLIC, "https://registry.example/x"),
        (PUBLIC, "https://REGISTRY.example:443/x"),
        (Hosts("registry.example", "https", ("cdn.example",)), "https://cdn.example/x?signed=1"),
        (Hosts("registry.example", "https", ("127.0.0.1:99",)), "http://127.0.0.1:99/x"),
        (Hosts("ghcr.io", "https"), "https://pkg-containers.githubusercontent.com/x"),
        (Hosts("docker.io", "https"), "https://production.cloudflare.docker.com/x"),
    ],
)
def test_a_blob_may_come_from_the_registry_and_hosts_known_for_it(hosts: Hosts, location: str) -> None:
    assert hosts.blob_source(BASE, location).startswith("https://" if "127" not in location else "http://")


@pytest.mark.parametrize(
    "location",
    [
        "http://registry.example/x",
        "https://registry.example:8443/x",
        "https://cdn.example/x",
        "https://registry.example.evil/x",
        "https://evil@registry.example/x",
        "https://registry.example@evil.example/x",
        "//evil.example/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://10.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/x",
        "https://intranet/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://db.internal/x",
        "file:///etc/passwd",
        "ftp://registry.example/x",
        "gopher://x",
        "https://[/x",
        "https://registry.example:99999/x",
        "javascript:alert(1)",
    ],
)
def test_and_from_nowhere_else(location: str) -> None:
    for check in (PUBLIC.blob_source, lambda base, url: PUBLIC.token_server(url)):
        with pytest.raises(Denied) as caught:
            check(BASE, location)
        assert str(caught.value).isprintable()
    with pytest.raises(Denied):
        PUBLIC.own(BASE, location, "the next page")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example\\.docker.com",
        "evil.example:443\\.docker.com",
        "10.0.0.1\\.docker.com",
        "evil.example%2f.docker.com",
        "evil.example%00.docker.com",
        "evil example.docker.com",
        "evil\u3002example.docker.com",
        "[::1].docker.com",
    ],
)
def test_a_host_that_parsers_read_differently_is_not_the_one_that_is_permitted(host: str) -> None:
    """requests asks what stands before a backslash; a suffix that is permitted behind it must not help."""
    hosts = Hosts("docker.io", "https")
    assert hosts.blob_source(hosts.base, "https://cdn.docker.com/x")
    for check in (hosts.token_server, lambda url: hosts.blob_source(hosts.base, url)):
        with pytest.raises(Denied):
            check(f"https://{host}/x")


def test_another_port_of_this_machine_is_another_host() -> None:
    assert LOCAL.blob_source(LOCAL.base, "/x") == "http://127.0.0.1:5000/x"
    for location in ("http://127.0.0.1:6000/x", "http://localhost:5000/x", "https://127.0.0.1:5000/x"):
        with pytest.raises(Denied):
            LOCAL.blob_source(LOCAL.base, location)


def test_uploads_and_pages_stay_with_the_registry_even_where_others_are_permitted() -> None:
    hosts = Hosts("registry.example", "https", ("cdn.example",))
    assert hosts.own(BASE, "/v2/a?last=x", "a page") == "https://registry.example/v2/a?last=x"
    with pytest.raises(Denied, match="not at the registry itself"):
        hosts.own(BASE, "https://cdn.example/x", "a page")


def test_what_may_be_secret_in_an_address_is_not_told() -> None:
    with pytest.raises(Denied) as caught:
        PUBLIC.blob_source(BASE, "https://cdn.example/path?X-Amz-Signature=topsecret")
    assert "topsecret" not in str(caught.value)
    assert "--redirect-host cdn.example" in str(caught.value)


@pytest.mark.parametrize(
    ("hosts", "safe"),
    [
        (PUBLIC, True),
        (LOCAL, True),
        (Hosts("registry.example", "http"), False),
        (Hosts("10.0.0.1:5000", "http"), False),
    ],
)
def test_a_password_goes_over_tls_or_stays_on_this_machine(hosts: Hosts, safe: bool) -> None:
    assert hosts.keeps_secrets == safe


def test_docker_io_is_asked_where_it_answers_and_looked_up_as_docker_writes_it() -> None:
    assert Hosts("docker.io", "https").base == "https://registry-1.docker.io"
    assert "https://index.docker.io/v1/" in config_keys("docker.io", "a/b")
    assert config_keys("r.example", "a/b")[:3] == ["r.example/a/b", "r.example/a", "r.example"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "fe80::1", "0.0.0.0", "printer"])
def test_hosts_of_private_networks_are_known(host: str) -> None:
    assert is_inside(host)


@pytest.mark.parametrize("host", ["1.1.1.1", "registry.example"])
def test_public_hosts_are_too(host: str) -> None:
    assert not is_inside(host)


@pytest.mark.parametrize("named", ["", "https://x.example", "a@b.example", "x.example/y", "x.example:99999"])
def test_what_the_user_permits_must_be_hosts(named: str) -> None:
    with pytest.raises(UsageError):
        permitted_hosts([named])
