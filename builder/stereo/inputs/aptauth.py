"""Logins for Debian mirrors, where the host's apt keeps them.

Follows apt_auth.conf(5): `machine [protocol://]host[:port][/path] login NAME password WORD`, in any layout of lines. As
with apt, an entry without a protocol is for https only, so that a password never crosses the wire in the clear unless
the host says so. A login goes to the machine that it is for, and into no text form.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

_ETC = Path("/etc/apt")


@dataclass(frozen=True)
class AptLogin:
    """One entry. `place` is what an address must begin with, such as "https://host:8080/path"."""

    place: str
    authorization: str = field(repr=False)


def of_host(etc: Path = _ETC) -> tuple[AptLogin, ...]:
    """The entries of auth.conf and auth.conf.d. What cannot be read is passed over, as apt does for ordinary users."""
    found: list[AptLogin] = []
    for path in (etc / "auth.conf", *sorted((etc / "auth.conf.d").glob("*.conf"))):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        found += _entries(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return tuple(found)


def headers_for(url: str, logins: Iterable[AptLogin]) -> Mapping[str, str]:
    """The Authorization header for an address, by the first entry that fits it."""
    parts = urlsplit(url)
    place = f"{parts.scheme}://{parts.netloc}{parts.path}"
    for login in logins:
        rest = place.removeprefix(login.place)
        # A host must match to its end: "host" is not for "host.evil", nor for "host:8080".
        whole_host = rest == "" or rest.startswith("/") or "/" in login.place.partition("://")[2]
        if rest != place and whole_host:
            return {"Authorization": login.authorization}
    return {}


def _entries(lines: Iterable[str]) -> Iterable[AptLogin]:
    words = [word for line in lines for word in line.split()]
    entry: dict[str, str] = {}
    for key, value in pairwise(words):
        if key == "machine":
            entry = {"machine": value}
        elif key in ("login", "password") and "machine" in entry and key not in entry:
            entry[key] = value
            if len(entry) == 3:
                machine = entry["machine"] if "://" in entry["machine"] else f"https://{entry['machine']}"
                pair = f"{entry['login']}:{entry['password']}".encode()
                yield AptLogin(machine, "Basic " + base64.b64encode(pair).decode())
                entry = {}
