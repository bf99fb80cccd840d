"""Which hosts a registry may involve: whom its credentials may reach, and who may serve its blobs. Pure.

A registry may answer with addresses: of a token server (WWW-Authenticate), of a blob (a redirect), of an upload, of the
next page. Each is a chance to make us ask hosts that only we can reach, or to carry credentials to somebody else. So:

- uploads and next pages are on the registry's own host and port, under its own scheme;
- a token server is the registry itself, or a host that is known for it or was named by the user, by https;
- a blob comes from the registry itself, or such a host, by https, at most three redirects away; nothing else is ever
  redirected, and no credentials go along, not even to the registry's own host;
- plain http is for this machine, or when the user said so; and then a password goes to this machine only.

That a permitted name leads to an address inside a private network does not help an attacker: by https, whoever answers
there must prove to have the name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from stereo.errors import UsageError, shown
from stereo.registry.errors import Denied
from stereo.registry.reference import is_loopback, split_host

_API = {"docker.io": "registry-1.docker.io"}
"""Where a registry answers that is called otherwise."""

_KNOWN = {
    "docker.io": ("auth.docker.io", ".docker.com", ".r2.cloudflarestorage.com"),
    "ghcr.io": ("pkg-containers.githubusercontent.com",),
    "quay.io": (".quay.io",),
    "registry.gitlab.com": ("gitlab.com", "storage.googleapis.com"),
}
"""Token servers and blob stores of public registries. With a dot in front: all hosts below that domain."""

_CONFIG_KEYS = {"docker.io": ("https://index.docker.io/v1/", "index.docker.io")}
_PORTS = {"http": 80, "https": 443}
_NETLOC = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


def api_host(host: str) -> str:
    """HOST[:PORT] to ask, of a registry called `host`."""
    return _API.get(host, host)


def config_keys(host: str, repository: str) -> list[str]:
    """What docker and podman may call a registry in their files, the most particular first."""
    parts = repository.split("/") if repository else []
    below = ["/".join([host, *parts[:count]]) for count in range(len(parts), 0, -1)]
    return [*below, host, *_CONFIG_KEYS.get(host, ()), f"https://{host}", f"https://{host}/v2/", f"https://{host}/v1/"]


@dataclass(frozen=True)
class Hosts:
    """The rules for one registry or web server. `scheme` is how it is asked itself, `extra` what the user permits."""

    host: str
    scheme: str
    extra: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """The start of its URLs."""
        return f"{self.scheme}://{api_host(self.host)}"

    @property
    def keeps_secrets(self) -> bool:
        """Whether a password may be sent to it."""
        return self.scheme == "https" or is_loopback(self.host)

    def own(self, base: str, location: str, what: str) -> str:
        """The address that `location` means seen from `base`, which must be the registry's own. Raises `Denied`."""
        url = _joined(base, location)
        if self._origin(url, what) != self._origin(self.base, what):
            raise Denied(f"{what} is at {_told(url)}, not at the registry itself", where=self.host)
        return url

    def token_server(self, realm: str) -> str:
        """A realm that may be asked for a token, with our password. Raises `Denied`."""
        self._permitted(realm, "the token server that it names")
        return realm

    def blob_source(self, base: str, location: str) -> str:
        """Where a redirect from `base` leads, if that may serve blobs. Raises `Denied`."""
        url = _joined(base, location)
        self._permitted(url, "the place that it sends us to for a blob")
        return url

    def _permitted(self, url: str, what: str) -> None:
        origin = self._origin(url, what)
        if origin == self._origin(self.base, what):
            return
        scheme, host, port = origin
        place = f"{host}:{port}"
        named = any(place == _with_port(one, scheme) for one in self.extra)
        if scheme != "https" and not (named and is_loopback(host)):
            raise Denied(f"{what} is {_told(url)}, and not by https", where=self.host)
        if named:
            return
        if is_inside(host):
            raise Denied(f"{what} is {_told(url)}, inside a private network", where=self.host)
        known = _KNOWN.get(self.host, ())
        if port != 443 or not any(host == one or (one.startswith(".") and host.endswith(one)) for one in known):
            hint = f"if that is right: --redirect-host {place if port != 443 else host}"
            raise Denied(f"{what} is {_told(url)}, a strange host", where=self.host, hint=hint)

    def _origin(self, url: str, what: str) -> tuple[str, str, int]:
        parts = _split(url)
        if parts is None or parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
            raise Denied(f"{what} is no plain https address", where=self.host)
        return parts.scheme, parts.hostname.lower().rstrip("."), parts.port or _PORTS[parts.scheme]


def permitted_hosts(named: Sequence[str]) -> tuple[str, ...]:
    """The hosts that a user permits, HOST[:PORT] each. Raises UsageError."""
    for one in named:
        if _split(f"https://{one}/") is None or "/" in one or "@" in one or not one:
            raise UsageError(f"{shown(one, 80)!r} is no host", hint="HOST or HOST:PORT")
    return tuple(one.lower() for one in named)


def is_inside(host: str) -> bool:
    """Whether `host` is, by its very text, no host of the public internet."""
    if is_loopback(host):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))
    return not address.is_global


def _split(url: str) -> SplitResult | None:
    """The parts of an address; None if its host is not written so that everybody who reads it sees the same one.

    Who judges an address and who connects to it are two parsers: of "https://a.example\\.b.example/" one sees a host
    below b.example, the other a.example and a path.
    """
    try:
        parts = urlsplit(url)
        return parts if _NETLOC.fullmatch(parts.netloc.rpartition("@")[2]) and parts.port != 0 else None
    except ValueError:
        return None


def _joined(base: str, location: str) -> str:
    try:
        return urljoin(base, location)
    except ValueError:  # of brackets that do not match
        return ""


def _with_port(host: str, scheme: str) -> str:
    name, port = split_host(host)
    return f"{name}:{port or _PORTS[scheme]}"


def _told(url: str) -> str:
    """An address without what may be secret in it: the rest of a signed one is a credential."""
    parts = _split(url)
    return (
        shown(f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}", 120)
        if parts
        else "no address"
    )
