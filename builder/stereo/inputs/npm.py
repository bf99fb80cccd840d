"""Resolves npm packages to exact tarballs.

Most agents ship as one self-contained tarball, which the registry's metadata is enough to lock. Only a package with
required dependencies needs a closure, and npm itself works that out (without running anything of the packages).
Optional dependencies are not followed: they are variants for other systems, or need a compiler at install time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from stereo import process
from stereo.errors import Problem, ProblemsError, StereoError
from stereo.inputs.discover import Found, download
from stereo.inputs.http import Http, HttpError
from stereo.inputs.npmrc import NpmConfig
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.lock import NpmPackage
from stereo.report import Progress, Report
from stereo.scratch import scratch_folder

_SPEC = re.compile(r"(?P<name>(?:@[a-z0-9~-][\w.~-]*/)?[a-z0-9~-][\w.~-]*)(?:@(?P<wanted>[\w.+-]+))?", re.ASCII)
_ABBREVIATED = {"Accept": "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8"}
_INDEX_LIMIT = 64 << 20  # bytes of metadata on one package
_LOCK_LIMIT = 5000  # packages in a closure
_NPM_TIMEOUT = 600.0  # seconds


@dataclass(frozen=True)
class _Chosen:
    path: str
    name: str
    version: str
    integrity: str


def resolve(
    specs: Sequence[str],
    arch: Architecture,
    *,
    config: NpmConfig,
    http: Http,
    store: Store,
    report: Report,
    known: Sequence[NpmPackage] = (),
) -> tuple[NpmPackage, ...]:
    """Lock NAME, NAME@VERSION or NAME@TAG. `known` are rows of an earlier lock, whose tarballs need no second look.

    Raises ProblemsError naming every package that is wrong or unknown, StereoError if the registry fails.
    """
    if not specs:
        return ()
    with report.step("Asking the npm registry"):
        manifests = _manifests(specs, config, http)
        if any(manifest.get("dependencies") for manifest in manifests):
            chosen = _closure(manifests, arch, config)
        else:
            chosen = [_chosen(f"node_modules/{manifest['name']}", manifest) for manifest in manifests]
    earlier = {(row.name, row.version, row.integrity): Found(row.sha256, row.size) for row in known}

    def row(one: _Chosen, progress: Progress) -> NpmPackage:
        label = f"{one.name}@{one.version} (npm)"
        found = earlier.get((one.name, one.version, one.integrity))
        if found is None:
            url = config.tarball_url(one.name, one.version)
            found = download(
                url,
                label,
                http=http,
                store=store,
                progress=progress,
                headers=config.headers_for(url),
                integrity=one.integrity,
            )
        return NpmPackage(**vars(one), size=found.size, sha256=found.sha256)

    with report.progress("Fetching npm packages to lock them", None) as progress, ThreadPoolExecutor(4) as pool:
        try:
            rows = list(pool.map(lambda one: row(one, progress), chosen))
        except BaseException:
            http.stop()
            raise
    return tuple(sorted(rows, key=lambda one: one.path))


def _manifests(specs: Sequence[str], config: NpmConfig, http: Http) -> list[Mapping[str, Any]]:
    problems: list[Problem] = []
    found: dict[str, Mapping[str, Any]] = {}
    for spec in specs:
        parts = _SPEC.fullmatch(spec)
        if not parts:
            problems.append(Problem("npm", spec[:100], "is not NAME, NAME@VERSION or NAME@TAG"))
        elif parts["name"] in found:
            problems.append(Problem("npm", parts["name"], "is asked for twice"))
        else:
            manifest = _manifest(parts["name"], parts["wanted"] or "latest", config, http)
            if isinstance(manifest, Problem):
                problems.append(manifest)
            else:
                found[parts["name"]] = manifest
    if problems:
        raise ProblemsError(problems)
    return [found[name] for name in sorted(found)]


def _manifest(name: str, wanted: str, config: NpmConfig, http: Http) -> Mapping[str, Any] | Problem:
    """What the registry says about one version, reduced to what we use."""
    url = config.metadata_url(name)
    try:
        index = json.loads(http.text(url, headers=_ABBREVIATED | config.headers_for(url), limit=_INDEX_LIMIT))
    except HttpError as error:
        if error.status == 404:
            return Problem("npm", name, "is not in the registry")
        raise StereoError(f"the registry {error.what}", where=f"{name} (npm)") from error
    except (ValueError, RecursionError) as error:
        raise StereoError("the registry's answer is not JSON", where=f"{name} (npm)") from error
    tags, versions = _table(index, "dist-tags"), _table(index, "versions")
    version = wanted if wanted in versions else tags.get(wanted)
    manifest = versions.get(version) if isinstance(version, str) else None
    if not isinstance(manifest, Mapping):
        return Problem("npm", f"{name}@{wanted}", "is not in the registry")
    integrity = _table(manifest, "dist").get("integrity")
    return {"name": name, "version": version, "integrity": integrity, "dependencies": _table(manifest, "dependencies")}


def _table(value: object, key: str) -> Mapping[str, Any]:
    inner = value.get(key) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _chosen(path: str, entry: Mapping[str, Any]) -> _Chosen:
    """One row's worth, held to the lock's own rules before anything is fetched for it."""
    # A package may state several digests; the lock keeps the sha512.
    stated = [word for word in str(entry.get("integrity")).split() if word.startswith("sha512-")]
    fields = {
        "path": path,
        "name": str(entry.get("name") or path.rpartition("node_modules/")[2]),
        "version": str(entry.get("version")),
        "integrity": stated[0] if stated else "",
    }
    try:
        NpmPackage(**fields, size=1, sha256="0" * 64)
    except ValidationError as error:
        faults = ", ".join(f"{fault['loc'][0]} {fields[str(fault['loc'][0])]!r}"[:120] for fault in error.errors())
        raise StereoError(f"cannot be locked: {faults}", where=f"{path[:200]} (npm)") from error
    return _Chosen(**fields)


def _closure(manifests: Sequence[Mapping[str, Any]], arch: Architecture, config: NpmConfig) -> list[_Chosen]:
    """What the packages need, by npm's own resolution for the image's system."""
    if not shutil.which("npm"):
        needy = ", ".join(manifest["name"] for manifest in manifests if manifest["dependencies"])
        raise StereoError(
            f"npm is needed to resolve the dependencies of {needy}",
            hint="apt install npm, or choose a package that brings what it needs",
        )
    wanted = {manifest["name"]: manifest["version"] for manifest in manifests}
    with scratch_folder("stereo-npm-") as folder:
        project = {"name": "closure", "version": "0.0.0", "private": True, "dependencies": wanted}
        (folder / "package.json").write_text(json.dumps(project))
        target = ["--os=linux", f"--cpu={arch.npm}", "--libc=glibc", "--omit=dev", "--omit=optional"]
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--engine-strict=false"]
        command = ["npm", "install", "--package-lock-only", *quiet, *target]
        # In the environment and not on the command line, where every user could read an address with a password.
        env = {**os.environ, **({"NPM_CONFIG_REGISTRY": config.registry} if config.registry else {})}
        process.run(command, env=env, cwd=folder, timeout=_NPM_TIMEOUT)
        locked = json.loads((folder / "package-lock.json").read_text())
    return list(_rows(locked, arch))


def _rows(locked: object, arch: Architecture) -> Iterator[_Chosen]:
    """The entries of a package-lock.json (version 2 or 3) that belong on the image's system."""
    entries = _table(locked, "packages")
    if len(entries) > _LOCK_LIMIT:
        raise StereoError(f"npm's closure has more than {_LOCK_LIMIT} packages")
    for path, entry in sorted(entries.items()):
        if path == "" or not isinstance(entry, Mapping):
            continue
        if entry.get("link") or not path.startswith("node_modules/"):
            raise StereoError("is a link, not a package of the registry", where=f"{path[:200]} (npm)")
        if entry.get("optional") or entry.get("dev") or entry.get("devOptional") or not _suits(entry, arch):
            continue
        yield _chosen(path, entry)


def _suits(entry: Mapping[str, Any], arch: Architecture) -> bool:
    """Whether a package's `os`, `cpu` and `libc` allow the image's system; see package.json(5)."""
    for key, ours in (("os", "linux"), ("cpu", arch.npm), ("libc", "glibc")):
        allowed = entry.get(key)
        if isinstance(allowed, list) and allowed:
            words = [str(word) for word in allowed]
            if f"!{ours}" in words or (not any(word.startswith("!") for word in words) and ours not in words):
                return False
    return True
