"""Where packages come from, as the host itself is configured: apt's sources, npm's registry, pip's index.

No address is written in this repository. Debian mirrors are those of the host's own apt configuration, whatever suite
they are configured for; an option or an environment variable names others. pip is asked by running it (`pypi`).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from stereo import process
from stereo.errors import StereoError, UsageError
from stereo.inputs import aptauth, npmrc

_KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
# What of the host's apt configuration reaches our private apt: how to get at a server, not what to do afterwards.
_ACQUIRE = re.compile(
    r"Acquire::(?:(?:http|https)(?:::.*)?|Retries|Check-Valid-Until|Check-Date|ForceIPv[46]|Max-ValidTime|Queue-Mode)",
    re.IGNORECASE,
)
_SCHEMES = ("http", "https", "file", "copy")


@dataclass(frozen=True)
class Overrides:
    """What options say; each stands above the environment, which stands above the host's configuration."""

    mirror: tuple[str, ...] = ()
    security_mirror: tuple[str, ...] = ()
    snapshot: str | None = None
    keyring: Path | None = None
    npm_registry: str | None = None


@dataclass(frozen=True)
class Sources:
    """`main` and `security` are the roots of Debian's two archives, best first; `snapshot` is a snapshot service."""

    main: tuple[str, ...] = ()
    security: tuple[str, ...] = ()
    keyring: Path = _KEYRINGS[0]
    snapshot: str | None = None
    apt_acquire: tuple[tuple[str, str], ...] = ()
    debian_proxies: Mapping[str, str] = field(default_factory=dict)
    debian_logins: tuple[aptauth.AptLogin, ...] = ()
    npm: npmrc.NpmConfig = field(default_factory=npmrc.NpmConfig)

    @classmethod
    def from_host(cls, overrides: Overrides | None = None, env: Mapping[str, str] | None = None) -> Sources:
        """Ask apt, npm and the environment. A source that is missing is an error only when it is needed."""
        overrides = overrides or Overrides()
        env = os.environ if env is None else env
        main = overrides.mirror or _words(env, "STEREO_MIRROR")
        security = overrides.security_mirror or _words(env, "STEREO_SECURITY_MIRROR")
        if not (main and security) and shutil.which("apt-get"):
            host_main, host_security = archives_of_host()
            main, security = main or host_main, security or host_security
        snapshot = overrides.snapshot or env.get("STEREO_SNAPSHOT") or None
        acquire = _acquire_of_host() if shutil.which("apt-config") else ()
        return cls(
            main=tuple(_archive_root(uri) for uri in main),
            security=tuple(_archive_root(uri) for uri in security),
            keyring=overrides.keyring or next((ring for ring in _KEYRINGS if ring.exists()), _KEYRINGS[0]),
            snapshot=_archive_root(snapshot).rstrip("/") if snapshot else None,
            apt_acquire=acquire,
            debian_proxies=_proxies(acquire),
            debian_logins=aptauth.of_host(),
            npm=npmrc.of_host(env, overrides.npm_registry),
        )

    def debian_headers(self, url: str) -> Mapping[str, str]:
        """What a request for a Debian mirror must carry."""
        return aptauth.headers_for(url, self.debian_logins)

    def archive(self, name: str) -> tuple[str, ...]:
        """The roots of the archive "main" or "security". Raises StereoError if the host names none."""
        roots = self.security if name == "security" else self.main
        if not roots:
            raise StereoError(
                f"the host's apt configuration names no mirror of Debian's {name} archive",
                hint="set STEREO_SECURITY_MIRROR" if name == "security" else "add --mirror URL, or set STEREO_MIRROR",
            )
        return roots


def redacted(url: str) -> str:
    """The address without user name, password and query, fit for a message."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, f"…@{host}" if "@" in parts.netloc else host, parts.path, "", ""))


def _words(env: Mapping[str, str], variable: str) -> tuple[str, ...]:
    return tuple(env.get(variable, "").split())


def _archive_root(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.path.startswith("/")):
        raise UsageError(f"{redacted(uri)!r} is not the address of a mirror", hint="use http://, https:// or file:///")
    return uri.rstrip("/") + "/"


def archives_of_host(options: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The roots of the main and the security archive that the host's apt uses, for whatever suite.

    apt itself reads its sources (one-line and deb822 form, see sources.list(5)); `options` are further arguments for
    it. Other archives that also call a component "main" may be among the candidates: they come last, and neither
    signature nor digests would let them through.
    """
    template = "$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(CREATED_BY)"
    # --no-release-info: also of a host whose apt has not fetched any index yet.
    command = ["apt-get", *options, "indextargets", "--no-release-info", "--format", template]
    listed = process.run(command, timeout=60).stdout
    releases: dict[str, set[str]] = {}
    for line in listed.splitlines():
        fields = line.split("\t")
        if len(fields) == 4 and fields[2] in ("main", "updates/main") and fields[3] == "Packages":
            for uri in _expanded(fields[0]):
                releases.setdefault(uri, set()).add(fields[1])
    main: list[tuple[bool, str]] = []
    security: list[str] = []
    for uri, suites in releases.items():
        if any(suite.endswith(("-security", "/updates")) for suite in suites):
            security.append(uri)
        if plain := {suite for suite in suites if re.fullmatch(r"[a-z]+", suite)}:
            main.append((not any(f"{suite}-updates" in suites for suite in plain), uri))
    # An archive that also carries NAME-updates is Debian's own; others may be some vendor's.
    return tuple(uri for _, uri in sorted(main, key=lambda pair: pair[0])), tuple(security)


def _expanded(uri: str) -> list[str]:
    """The mirrors that an apt URI stands for; apt-transport-mirror(1) lists are read when they are local files."""
    scheme, _, rest = uri.partition(":")
    if scheme in _SCHEMES:
        return [uri]
    if scheme in ("mirror+file", "mirror+copy"):
        path = Path(unquote(re.sub(r"^//(?=/)", "", rest.rstrip("/"))))
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            return []
        words = [line.split("#")[0].split() for line in lines]
        return [first[0].rstrip("/") + "/" for first in words if first and first[0].partition(":")[0] in _SCHEMES]
    return []


def _acquire_of_host() -> tuple[tuple[str, str], ...]:
    dump = process.run(["apt-config", "dump", "--format", "%F\t%v%n"], timeout=60).stdout
    pairs = (line.partition("\t")[::2] for line in dump.splitlines())
    return tuple((key, value) for key, value in pairs if _ACQUIRE.fullmatch(key) and value)


def _proxies(acquire: Sequence[tuple[str, str]]) -> dict[str, str]:
    proxies = {}
    for key, value in acquire:
        scheme, _, host = key.lower().removeprefix("acquire::").partition("::proxy")
        if scheme in ("http", "https") and key.lower().endswith("proxy") and not host:
            proxies[scheme] = value
    return proxies
