"""Resolves and fetches wheels by running pip, so that index, credentials, proxies and certificates are the host's own.

pip resolves for the image's Python and libc, not for ours, and takes wheels only: nothing is built, nothing of a
package is run. One gap is closed here: pip evaluates environment markers (`python_version < "3.12"`) for the Python
that it runs on. So each wheel's own requirements are read and held against the image's environment; what is missing is
asked for explicitly, what nobody needs is dropped.
"""

from __future__ import annotations

import email.parser
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, NormalizedName, canonicalize_name, parse_wheel_filename

from stereo import process
from stereo.errors import Problem, ProblemsError, StereoError
from stereo.inputs.store import Store, sha256_of
from stereo.model.architecture import Architecture
from stereo.model.lock import Wheel
from stereo.report import Report

PYTHON = "3.13"  # of Debian trixie
_GLIBC_MINOR = 41  # of Debian trixie: 2.41
_OLDEST_GLIBC_MINOR = {Architecture.X86_64: 5, Architecture.AARCH64: 17}  # PEP 600
_TIMEOUT = 1800.0  # seconds
_ROUNDS = 5
_METADATA_LIMIT = 4 << 20  # bytes


@dataclass(frozen=True)
class _Downloaded:
    wheel: Wheel
    path: Path
    requires: tuple[Requirement, ...]


def resolve(specs: Sequence[str], arch: Architecture, *, store: Store, report: Report) -> tuple[Wheel, ...]:
    """Lock NAME or NAME==VERSION with all that it requires. The wheels are in the store afterwards.

    Raises ProblemsError for a requirement that is none, StereoError if pip finds no solution.
    """
    if not specs:
        return ()
    wanted = [_requirement(spec) for spec in specs]
    with (
        report.step("Asking the Python package index"),
        tempfile.TemporaryDirectory(prefix="wheels-", dir=store.room("new")) as name,
    ):
        found = _closed(wanted, arch, Path(name))
        for item in found:
            store.adopt(item.path, item.wheel.sha256)
    return tuple(sorted((item.wheel for item in found), key=lambda wheel: wheel.filename))


def fetch(wheels: Sequence[Wheel], arch: Architecture, *, store: Store, report: Report) -> dict[str, str]:
    """Fetch locked wheels; returns the reasons by label for those that pip cannot get with the locked digest."""
    if not wheels:
        return {}
    failures: dict[str, str] = {}
    with (
        report.progress("Fetching wheels", len(wheels), "wheels") as progress,
        tempfile.TemporaryDirectory(prefix="wheels-", dir=store.room("new")) as name,
    ):
        for number, wheel in enumerate(wheels):
            folder = Path(name) / str(number)
            folder.mkdir()
            pinned = folder / "requirements.txt"
            pinned.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
            try:
                _pip(["--no-deps", "--require-hashes", "-r", str(pinned)], arch, folder)
            except process.CommandFailed as error:
                failures[wheel.label] = "pip: " + _last_error(error.output)
                continue
            for file in folder.glob("*.whl"):
                with file.open("rb") as stream:
                    if sha256_of(stream) == (wheel.sha256, wheel.size):
                        store.adopt(file, wheel.sha256)
                        break
            else:
                failures[wheel.label] = "pip brought another file than the lock names"
            progress.advance(1)
    return failures


def _requirement(spec: str) -> Requirement:
    try:
        requirement = Requirement(spec)
    except InvalidRequirement as error:
        raise ProblemsError([Problem("pypi", spec[:100], "is not a requirement", "write NAME or NAME==1.2")]) from error
    if requirement.url is not None:
        raise ProblemsError([Problem("pypi", spec[:100], "names an address", "name a project of the index")])
    return requirement


def _closed(wanted: Sequence[Requirement], arch: Architecture, folder: Path) -> list[_Downloaded]:
    asked = {str(requirement) for requirement in wanted}
    for number in range(_ROUNDS):
        target = folder / str(number)
        target.mkdir()
        try:
            _pip(sorted(asked), arch, target)
        except process.CommandFailed as error:
            names = ", ".join(str(requirement) for requirement in wanted)
            message = f"pip finds no set of wheels for {names}: {_last_error(error.output)}"
            raise StereoError(message, hint=f"it must have a wheel for Python {PYTHON} on {arch}") from error
        by_name = {canonicalize_name(item.wheel.name): item for item in map(_read, sorted(target.glob("*.whl")))}
        needed, missing = _reached(wanted, by_name, arch)
        if not missing:
            return needed
        asked |= missing
    raise StereoError("the requirements of the wheels do not come to an end", where="pypi")


def _reached(
    wanted: Sequence[Requirement], by_name: Mapping[NormalizedName, _Downloaded], arch: Architecture
) -> tuple[list[_Downloaded], set[str]]:
    """What the image's environment needs of the wheels at hand, and the requirements that none of them meets."""
    environment = _environment(arch)
    needed: dict[NormalizedName, _Downloaded] = {}
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    queue = [(requirement, "") for requirement in wanted]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        if name not in by_name:
            requirement.marker = None
            missing.add(str(requirement))
            continue
        needed[name] = by_name[name]
        for inner in ("", *requirement.extras):
            if (name, inner) not in seen:
                seen.add((name, inner))
                queue += [(one, inner) for one in by_name[name].requires]
    return [needed[name] for name in sorted(needed)], missing


def _environment(arch: Architecture) -> dict[str, str]:
    """The image's values of the markers; see the dependency specifiers specification."""
    known = {str(key): str(value) for key, value in default_environment().items()}
    return {
        **known,
        "implementation_name": "cpython",
        "implementation_version": f"{PYTHON}.0",
        "os_name": "posix",
        "platform_machine": arch.value,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{PYTHON}.0",
        "python_version": PYTHON,
        "sys_platform": "linux",
    }


def _read(path: Path) -> _Downloaded:
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with path.open("rb") as stream:
            sha256, size = sha256_of(stream)
        wheel = Wheel(name=name, version=str(version), filename=path.name, size=size, sha256=sha256)
        return _Downloaded(wheel, path, tuple(_requirements(path)))
    except (InvalidWheelFilename, InvalidRequirement, zipfile.BadZipFile, ValueError) as error:
        raise StereoError(f"is not a wheel that can be locked: {str(error)[:200]}", where=path.name) from error


def _requirements(path: Path) -> Iterator[Requirement]:
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", info.filename)]
        if len(members) != 1 or members[0].file_size > _METADATA_LIMIT:
            raise ValueError("it has no single METADATA of sensible size")
        text = archive.read(members[0]).decode(errors="replace")
    for line in email.parser.HeaderParser().parsestr(text).get_all("Requires-Dist", []):
        yield Requirement(line)


def _pip(words: Sequence[str], arch: Architecture, folder: Path) -> None:
    oldest = _OLDEST_GLIBC_MINOR[arch]
    platforms = [f"manylinux_2_{minor}_{arch}" for minor in range(_GLIBC_MINOR, oldest - 1, -1)]
    platforms += [f"manylinux2014_{arch}", f"linux_{arch}"]
    target = ["--python-version", PYTHON, "--implementation", "cp", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += [*target, *(f"--platform={platform}" for platform in platforms), "--dest", str(folder), *words]
    process.run(command, env=dict(os.environ), cwd=folder, timeout=_TIMEOUT)


def _last_error(output: str) -> str:
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")] or output.strip().splitlines()[-1:]
    return re.sub(r"//[^/@\s]+@", "//…@", " ".join(errors))[:500]
