"""Locking npm packages from a registry on the loopback interface."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from typing import Any

import pytest

from stereo.errors import ProblemsError, StereoError
from stereo.inputs import npm
from stereo.inputs.http import Http
from stereo.inputs.npmrc import NpmConfig
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.lock import NpmPackage
from stereo.report import Silent
from unit.inputs.loopback import Mirror


def integrity(content: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def publish(mirror: Mirror, name: str, versions: Mapping[str, bytes], *, latest: str, **more: Any) -> None:
    base = name.rpartition("/")[2]
    for version, content in versions.items():
        mirror.files[f"/{name}/-/{base}-{version}.tgz"] = content
    index = {
        "dist-tags": {"latest": latest, "next": max(versions)},
        "versions": {
            version: {"name": name, "version": version, "dist": {"integrity": integrity(content)}, **more}
            for version, content in versions.items()
        },
    }
    mirror.files["/" + name.replace("/", "%2F")] = json.dumps(index).encode()


def resolve(mirror: Mirror, store: Store, *specs: str, known: tuple[NpmPackage, ...] = ()) -> tuple[NpmPackage, ...]:
    config = NpmConfig(mirror.url)
    with Http() as http:
        return npm.resolve(
            specs, Architecture.X86_64, config=config, http=http, store=store, report=Silent(), known=known
        )


def test_a_bare_name_is_locked_to_its_latest_version(mirror: Mirror, store: Store) -> None:
    publish(mirror, "agent", {"1.0.0": b"old", "1.1.0": b"new", "2.0.0-rc.1": b"next"}, latest="1.1.0")
    (row,) = resolve(mirror, store, "agent")
    assert row == NpmPackage(
        path="node_modules/agent",
        name="agent",
        version="1.1.0",
        integrity=integrity(b"new"),
        size=3,
        sha256=hashlib.sha256(b"new").hexdigest(),
    )
    assert store.has(row.sha256)


@pytest.mark.parametrize(("spec", "version"), [("agent@1.0.0", "1.0.0"), ("agent@next", "2.0.0-rc.1")])
def test_a_version_or_tag_may_be_named(mirror: Mirror, store: Store, spec: str, version: str) -> None:
    publish(mirror, "agent", {"1.0.0": b"old", "2.0.0-rc.1": b"next"}, latest="1.0.0")
    assert resolve(mirror, store, spec)[0].version == version


def test_a_scoped_package_is_locked(mirror: Mirror, store: Store) -> None:
    publish(mirror, "@openai/codex", {"0.1.0-linux-x64": b"binary"}, latest="0.1.0-linux-x64")
    (row,) = resolve(mirror, store, "@openai/codex")
    assert row.path == "node_modules/@openai/codex"


def test_optional_dependencies_are_not_followed(mirror: Mirror, store: Store) -> None:
    publish(mirror, "agent", {"1.0.0": b"x"}, latest="1.0.0", optionalDependencies={"agent-darwin": "1.0.0"})
    assert len(resolve(mirror, store, "agent")) == 1


def test_what_an_earlier_lock_knows_is_not_fetched_again(mirror: Mirror, store: Store) -> None:
    publish(mirror, "agent", {"1.0.0": b"x"}, latest="1.0.0")
    rows = resolve(mirror, store, "agent")
    mirror.requests.clear()
    assert resolve(mirror, store, "agent", known=rows) == rows
    assert mirror.paths == ["/agent"]


def test_a_tarball_that_does_not_fit_its_integrity_is_refused(mirror: Mirror, store: Store) -> None:
    publish(mirror, "agent", {"1.0.0": b"x"}, latest="1.0.0")
    mirror.files["/agent/-/agent-1.0.0.tgz"] = b"evil"
    with pytest.raises(StereoError, match="does not fit the registry's integrity"):
        resolve(mirror, store, "agent")


def test_all_wrong_and_unknown_packages_are_named_at_once(mirror: Mirror, store: Store) -> None:
    publish(mirror, "agent", {"1.0.0": b"x"}, latest="1.0.0")
    with pytest.raises(ProblemsError) as caught:
        resolve(mirror, store, "agent@9.9.9", "nobody", "../etc", "--registry=x", "agent@^1")
    assert [problem.key for problem in caught.value.problems] == [
        "--registry=x",
        "../etc",
        "agent@9.9.9",
        "agent@^1",
        "nobody",
    ]


def test_one_package_in_two_versions_is_refused(mirror: Mirror, store: Store) -> None:
    publish(mirror, "agent", {"1.0.0": b"x", "2.0.0": b"y"}, latest="1.0.0")
    with pytest.raises(ProblemsError, match="asked for twice"):
        resolve(mirror, store, "agent@1.0.0", "agent@2.0.0")


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"dist-tags": [], "versions": 3}',
        b'{"dist-tags": {"latest": {}}, "versions": {}}',
        b'{"dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": []}}',
        b'{"dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {"dist": {}}}}',
        b'{"dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {"dist": {"integrity": "sha1-AAAA"}}}}',
        b'{"dist-tags": {"latest": "../x"}, "versions": {"../x": {"dist": {"integrity": "sha512-AAAA"}}}}',
    ],
)
def test_a_registry_that_talks_nonsense_is_an_error_not_a_crash(mirror: Mirror, store: Store, answer: bytes) -> None:
    mirror.files["/agent"] = answer
    with pytest.raises(StereoError):
        resolve(mirror, store, "agent")


def test_an_old_package_may_state_several_digests(mirror: Mirror, store: Store) -> None:
    publish(mirror, "agent", {"1.0.0": b"x"}, latest="1.0.0")
    mirror.files["/agent"] = mirror.files["/agent"].replace(b'"sha512-', b'"sha1-AAAA sha512-')
    assert resolve(mirror, store, "agent")[0].integrity == integrity(b"x")


def entry(**more: Any) -> dict[str, Any]:
    return {"version": "1.0.0", "integrity": integrity(b"x"), **more}


def chosen(packages: Mapping[str, Any], arch: Architecture = Architecture.X86_64) -> list[str]:
    return [one.path for one in npm._rows({"packages": {"": {}, **packages}}, arch)]


def test_a_closure_keeps_nested_packages_where_npm_puts_them() -> None:
    nested = "node_modules/@a/b/node_modules/c"
    assert chosen({"node_modules/@a/b": entry(), nested: entry()}) == ["node_modules/@a/b", nested]


def test_a_closure_knows_an_aliased_package_by_its_real_name() -> None:
    (row,) = npm._rows({"packages": {"node_modules/alias": entry(name="real")}}, Architecture.X86_64)
    assert (row.path, row.name) == ("node_modules/alias", "real")


@pytest.mark.parametrize(
    "more",
    [
        {"optional": True},
        {"dev": True},
        {"os": ["darwin"]},
        {"os": ["!linux"]},
        {"cpu": ["arm64"]},
        {"libc": ["musl"]},
    ],
)
def test_a_closure_leaves_out_what_the_image_cannot_use(more: Mapping[str, Any]) -> None:
    assert chosen({"node_modules/x": entry(**more), "node_modules/y": entry()}) == ["node_modules/y"]


@pytest.mark.parametrize("more", [{"os": ["linux", "darwin"]}, {"os": ["!win32"]}, {"cpu": ["x64"]}, {"os": []}])
def test_a_closure_keeps_what_the_image_can_use(more: Mapping[str, Any]) -> None:
    assert chosen({"node_modules/x": entry(**more)}) == ["node_modules/x"]


@pytest.mark.parametrize(
    "packages",
    [
        {"node_modules/../../x": entry()},
        {"lib/x": entry()},
        {"node_modules/x": entry(link=True)},
        {"node_modules/x": {"version": "1.0.0", "resolved": "git+ssh://git@host.invalid/x"}},
    ],
    ids=["climbs", "elsewhere", "link", "not of the registry"],
)
def test_a_closure_with_what_cannot_be_locked_is_refused(packages: Mapping[str, Any]) -> None:
    with pytest.raises(StereoError):
        chosen(packages)


def test_without_npm_a_package_with_dependencies_names_the_remedy(
    mirror: Mirror, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, "agent", {"1.0.0": b"x"}, latest="1.0.0", dependencies={"left-pad": "^1"})
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(StereoError, match="npm is needed to resolve the dependencies of agent"):
        resolve(mirror, store, "agent")
