"""Resolves Debian packages to exact .debs with the host's apt-get in a private root.

The host's packages, lists, hooks and pins play no part: apt gets a configuration, state and sources of its own, an
empty dpkg status, and fetches the indexes of trixie, trixie-updates and trixie-security. apt verifies each InRelease
signature against Debian's keyring and each index against InRelease; only then do we ask it what an installation into
an empty root would take. See apt.conf(5), sources.list(5), apt-get(8).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from stereo import process
from stereo.errors import Problem, ProblemsError, StereoError
from stereo.inputs.sources import Sources
from stereo.model.architecture import Architecture
from stereo.model.lock import Archive, Deb, Suite
from stereo.scratch import scratch_folder

RELEASE = "trixie"
SUITES: tuple[tuple[str, Archive], ...] = (
    (RELEASE, "main"),
    (f"{RELEASE}-updates", "main"),
    (f"{RELEASE}-security", "security"),
)
# mkosi installs these into an empty root before anything that a configuration names.
BOOTSTRAP = ("?essential", "base-files")
_UPDATE_TIMEOUT = 900.0  # seconds
_PRINTED = re.compile(r"^'[^']+' (?P<file>\S+) [0-9]+ SHA256:(?P<sha256>[0-9a-f]{64})$", re.MULTILINE)
_REQUEST = re.compile(r"[a-z0-9][a-z0-9+.-]+|\?[a-z-]+(\([A-Za-z0-9+.:-]*\))?")


@dataclass(frozen=True)
class _Root:
    folder: Path
    mirrors: Mapping[Archive, str]

    def run(self, *words: str, timeout: float = 300.0) -> str:
        """What apt-get says, on both of its outputs: it explains itself on the one and fails on the other."""
        env = process.closed_environment({"APT_CONFIG": str(self.folder / "apt.conf")})
        return process.run(["apt-get", *words], env=env, timeout=timeout, on_line=lambda _line: None).stdout


class Apt:
    """Indexes that apt has verified, ready to be asked. Made by `opened`."""

    def __init__(self, root: _Root, arch: Architecture) -> None:
        self._root = root
        self._arch = arch

    def suites(self) -> tuple[Suite, ...]:
        """The suites with the dates of their signed InRelease files."""
        found = {}
        for path in sorted((self._root.folder / "state/lists").glob("*_InRelease")):
            fields = dict(re.findall(r"^(Codename|Date): (.*)$", path.read_text(errors="replace"), re.MULTILINE))
            found[fields.get("Codename", "").strip()] = _iso(fields.get("Date", ""), path.name)
        if missing := [suite for suite, _ in SUITES if suite not in found]:
            raise StereoError(f"the mirror answered for another suite than {', '.join(missing)}")
        return tuple(Suite(suite=suite, archive=archive, date=found[suite]) for suite, archive in SUITES)

    def resolve(self, packages: Sequence[str], *, bootstrap: bool = True) -> tuple[Deb, ...]:
        """The .debs that `packages` and their dependencies (no recommendations) are, sorted by name.

        With `bootstrap` a system's essential packages are among them. A name is a package or an apt pattern. Raises
        ProblemsError naming every package that does not exist, StereoError if apt finds no solution.
        """
        if wrong := [name for name in packages if not _REQUEST.fullmatch(name)]:
            raise ProblemsError(
                [
                    Problem("packages", name[:80], "is not a Debian package name", "see `apt-cache search`")
                    for name in wrong
                ]
            )
        words = [*(BOOTSTRAP if bootstrap else ()), *packages]
        try:
            printed = self._root.run("install", "--print-uris", "-q", "-y", *words)
        except process.CommandFailed as error:
            raise _explained(error, packages) from error
        chosen = {found["sha256"]: unquote(found["file"]) for found in _PRINTED.finditer(printed)}
        if len(chosen) != sum(line.startswith("'") for line in printed.splitlines()):
            raise StereoError("the index has a package without a SHA-256, or one content under two names")
        rows = tuple(sorted(self._rows(chosen), key=lambda row: (row.name, row.arch)))
        names = {row.name for row in rows}
        if virtual := [name for name in packages if not name.startswith("?") and name not in names]:
            # apt took one that provides it; whoever reads the lock looks for the name that was asked for
            hint = "name a package that provides it, see `apt-cache showpkg`"
            raise ProblemsError([Problem("packages", name, "is a virtual package", hint) for name in virtual])
        return rows

    def _rows(self, chosen: Mapping[str, str]) -> Iterator[Deb]:
        """The rows of the packages with these SHA-256, as the verified indexes have them."""
        left = dict(chosen)
        for archive, index in self._indexes():
            content = index.read_bytes()
            for found in re.finditer(rb"^SHA256: ([0-9a-f]{64})$", content, re.MULTILINE):
                if left.pop(found[1].decode(), None) is not None:
                    begin = content.rfind(b"\n\n", 0, found.start())
                    end = content.find(b"\n\n", found.end())
                    stanza = content[max(begin, 0) : end if end >= 0 else None]
                    yield _row(stanza.decode(errors="replace"), archive)
        if left:
            raise StereoError(f"apt took packages from elsewhere: {', '.join(sorted(left.values())[:10])}")

    def _indexes(self) -> list[tuple[Archive, Path]]:
        """The Packages files in the order of SUITES: what two archives share is locked in the first."""
        template = "$(RELEASE)\t$(CREATED_BY)\t$(FILENAME)"
        listed = [line.split("\t") for line in self._root.run("indextargets", "--format", template).splitlines()]
        files = {fields[0]: Path(fields[2]) for fields in listed if len(fields) == 3 and fields[1] == "Packages"}
        return [(archive, files[suite]) for suite, archive in SUITES if suite in files]


def _row(stanza: str, archive: Archive) -> Deb:
    fields = dict(re.findall(r"^(Package|Version|Architecture|Filename|Size|SHA256): (.*)$", stanza, re.MULTILINE))
    return Deb(
        name=fields.get("Package", ""),
        version=fields.get("Version", ""),
        arch=fields.get("Architecture", ""),
        archive=archive,
        path=fields.get("Filename", ""),
        size=int(fields.get("Size", "0")),
        sha256=fields.get("SHA256", ""),
    )


def _explained(error: process.CommandFailed, packages: Sequence[str]) -> StereoError:
    unknown = re.findall(r"Unable to locate package (\S+)|Package '?([^\s']+)'? has no installation", error.output)
    if "base-files" in {first or second for first, second in unknown}:
        return StereoError(
            f"the mirror has signed indexes of Debian {RELEASE}, but no packages in them for this architecture",
            hint="name another with --mirror, for security updates with STEREO_SECURITY_MIRROR",
        )
    if names := {first or second for first, second in unknown} & set(packages):
        return ProblemsError(
            Problem("packages", name, f"is not in Debian {RELEASE}", "look for it with `apt-cache search`")
            for name in names
        )
    tail = "\n".join(error.output.strip().splitlines()[-15:])
    return StereoError(f"apt finds no way to install this set of packages:\n{tail}")


def _iso(date: str, where: str) -> str:
    try:
        moment = parsedate_to_datetime(date).astimezone(datetime.UTC)
    except (TypeError, ValueError) as error:
        raise StereoError(f"has no readable Date ({date[:60]!r})", where=where) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def opened(arch: Architecture, sources: Sources) -> Iterator[Apt]:
    """Fetch and verify the indexes into a temporary root. Tries the host's mirrors in turn; raises StereoError."""
    if not sources.keyring.is_file():
        raise StereoError(
            f"Debian's archive keyring is not there: {sources.keyring}", hint="apt install debian-archive-keyring"
        )
    main, security = sources.archive("main"), sources.archive("security")
    failures: list[str] = []
    with scratch_folder("stereo-apt-") as folder:
        for attempt in range(max(len(main), len(security))):
            # Mirrors are tried in pairs: a host that lists fall-backs lists them for both archives.
            pair: dict[Archive, str] = {
                "main": main[min(attempt, len(main) - 1)],
                "security": security[min(attempt, len(security) - 1)],
            }
            root = _Root(folder / str(attempt), pair)
            _furnish(root, arch, sources)
            try:
                root.run("update", "-o", "APT::Update::Error-Mode=any", timeout=_UPDATE_TIMEOUT)
            except process.CommandFailed as error:
                failures.append("\n".join(error.output.strip().splitlines()[-10:]))
                continue
            yield Apt(root, arch)
            return
    told = re.sub(r"//[^/@\s]+@", "//…@", "\n".join(failures))
    hint = "check the mirrors with `stereo doctor`, or name others: --mirror, STEREO_SECURITY_MIRROR"
    if "NO_PUBKEY" in told:
        hint = "update the keyring: apt update && apt install debian-archive-keyring"
    raise StereoError(f"could not obtain verified indexes of Debian {RELEASE}:\n{told}", hint=hint)


def _furnish(root: _Root, arch: Architecture, sources: Sources) -> None:
    folder = root.folder
    for room in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "log"):
        (folder / room).mkdir(parents=True)
    for room in ("sources.list.d", "trusted.gpg.d"):
        (folder / "etc" / room).mkdir()
    (folder / "status").touch()
    settings = [
        *sources.apt_acquire,
        ("APT::Architecture", arch.debian),
        ("APT::Architectures::", arch.debian),
        ("APT::Install-Recommends", "false"),
        ("APT::Immediate-Configure", "false"),
        ("pkgCacheGen::ForceEssential", ","),  # else apt counts itself as essential; mkosi says the same
        ("APT::Sandbox::User", "root"),  # the root is ours alone; _apt could not enter it
        ("Acquire::ForceHash", "SHA256"),
        ("Acquire::Languages", "none"),
        ("Acquire::AllowInsecureRepositories", "false"),
        ("Acquire::AllowWeakRepositories", "false"),
        ("Acquire::AllowDowngradeToInsecureRepositories", "false"),
        ("APT::Get::AllowUnauthenticated", "false"),
        ("Dir", "/"),
        ("Dir::State", str(folder / "state")),
        ("Dir::State::status", str(folder / "status")),
        ("Dir::Cache", str(folder / "cache")),
        ("Dir::Log", str(folder / "log")),
        ("Dir::Etc", str(folder / "etc")),
        ("Dir::Etc::netrc", "/etc/apt/auth.conf"),  # credentials for the host's mirrors stay in the host's files
        ("Dir::Etc::netrcparts", "/etc/apt/auth.conf.d"),
    ]
    lines = [f'{key} "{_quotable(value)}";' for key, value in settings]
    (folder / "apt.conf").write_text("#clear APT::Architectures;\n" + "\n".join(lines) + "\n")
    stanzas = [
        f"Types: deb\nURIs: {root.mirrors[archive]}\nSuites: {suite}\nComponents: main\nSigned-By: {sources.keyring}\n"
        for suite, archive in SUITES
    ]
    (folder / "etc/sources.list.d/debian.sources").write_text("\n".join(stanzas))


def _quotable(value: str) -> str:
    if re.search(r'["\\\n]', value):
        raise StereoError("a value of the host's apt configuration cannot be passed on", where="apt-config dump")
    return value
