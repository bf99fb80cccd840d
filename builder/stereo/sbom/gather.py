"""Draws up the bill of a build: the lock says the bytes, the tree says what is there, the plan adds what is ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from stereo.errors import StereoError
from stereo.model.lock import Deb, NpmPackage, UrlFile, Wheel
from stereo.plan.plan import Plan
from stereo.plan.render import AGENT
from stereo.plan.tree import Tree, part, tree_digest
from stereo.sbom.bill import Bill, Component, Kind
from stereo.sbom.installed import Installed
from stereo.sbom.licences import Stated, of_copyright, of_metadata, of_package_json, version_of_package_json

_KERNEL = re.compile(r"linux-image-[0-9].*")


def draw_up(plan: Plan, installed: Installed, *, revision: str, root_hash: str, kernel_version: str) -> Bill:
    """The bill of an image that was made from `plan`, whose tree `installed` is.

    Raises StereoError if the tree holds what the lock does not know: then one of them is not of this plan.
    """
    unlisted: dict[str, tuple[str, set[str]]] = {}
    components = [
        Component(Kind.SYSTEM, "debian", installed.debian, f"pkg:generic/debian@{installed.debian}"),
        *_debian(plan, installed, unlisted),
        *_npm(plan.lock.npm, installed.files, unlisted),
        *_bundled(plan.lock.npm, installed.files, unlisted),
        *_wheels(plan.lock.wheels, installed.files, unlisted),
        *_files(plan),
        *_ours(plan.image, revision),
    ]
    return Bill(
        name=plan.mixtape.name,
        version=plan.version,
        arch=plan.arch.value,
        revision=revision,
        epoch=plan.epoch,
        root_hash=root_hash,
        kernel_version=kernel_version,
        components=_unique(components),
        tools=_unique(
            [
                Component(Kind.OURS, "stereo", revision, f"pkg:generic/stereo@{revision}"),
                *(
                    Component(Kind.DEBIAN, deb.name, deb.version, _deb_purl(deb, installed.debian), deb.sha256)
                    for deb in plan.tools_lock.tools
                ),
            ]
        ),
        unlisted=tuple((key, name, tuple(sorted(users))) for key, (name, users) in sorted(unlisted.items())),
    )


def _unique(components: Iterable[Component]) -> tuple[Component, ...]:
    """By purl, each once: npm may put the very same package into several folders."""
    found = {component.purl: component for component in components}
    return tuple(found[purl] for purl in sorted(found))


def _noted(stated: Stated, user: str, unlisted: dict[str, tuple[str, set[str]]]) -> Stated:
    for reference, name in stated.references.items():
        unlisted.setdefault(reference, (name, set()))[1].add(user)
    return stated


def _debian(plan: Plan, installed: Installed, unlisted: dict[str, tuple[str, set[str]]]) -> Iterator[Component]:
    locked: dict[tuple[str, str, str], Deb] = {(deb.name, deb.version, deb.arch): deb for deb in plan.lock.image}
    rows = {deb.name: locked.get((deb.name, deb.version, deb.arch)) for deb in installed.debs}
    if strangers := sorted(name for name, row in rows.items() if row is None):
        raise StereoError(
            f"holds packages that are not in the lock: {', '.join(strangers[:5])}",
            where=f"the tree of {plan.mixtape.name}",
            hint="empty the cache with `stereo clean --all`, and build again",
        )
    purls = {name: _deb_purl(row, installed.debian) for name, row in rows.items() if row}
    stated: dict[bytes, Stated] = {}  # packages of one source have one copyright file
    for deb in installed.debs:
        row, text = rows[deb.name], installed.copyrights.get(deb.name, b"")
        assert row is not None
        if text not in stated:
            stated[text] = of_copyright(text)
        licence = _noted(stated[text], deb.name, unlisted)
        yield Component(
            Kind.KERNEL if _KERNEL.fullmatch(deb.name) else Kind.DEBIAN,
            deb.name,
            deb.version,
            purls[deb.name],
            row.sha256,
            licence=licence.expression,
            hints=licence.hints,
            source=deb.source,
            needs=tuple(sorted(purls[name] for name in deb.needs)),
        )


def _deb_purl(deb: Deb, release: str) -> str:
    from packageurl import PackageURL

    qualifiers = {"arch": deb.arch, "distro": f"debian-{release}"}
    return str(PackageURL("deb", "debian", deb.name, deb.version, qualifiers).to_string())


def _npm(
    rows: Iterable[NpmPackage], files: Mapping[str, bytes], unlisted: dict[str, tuple[str, set[str]]]
) -> Iterator[Component]:
    for row in rows:
        stated = of_package_json(files.get(_package_json(row), b""))
        licence = _noted(stated, row.name, unlisted).expression
        purl = _npm_purl(row.name, row.version)
        yield Component(Kind.NPM, row.name, row.version, purl, row.sha256, licence=licence)


def _bundled(
    rows: Sequence[NpmPackage], files: Mapping[str, bytes], unlisted: dict[str, tuple[str, set[str]]]
) -> Iterator[Component]:
    """Packages that came inside of others' tarballs: no lock knows them, and their only digest is that of the tarball.

    What a bundler has made one file of, cannot be told apart any more.
    """
    locked, purls = {_package_json(row) for row in rows}, {_npm_purl(row.name, row.version) for row in rows}
    for path, data in sorted(files.items()):
        name = path.removesuffix("/package.json").rpartition("/node_modules/")[2]
        version = version_of_package_json(data)
        if path in locked or version is None or not path.endswith("/package.json"):
            continue
        if (purl := _npm_purl(name, version)) not in purls:
            licence = _noted(of_package_json(data), name, unlisted).expression
            yield Component(Kind.NPM, name, version, purl, licence=licence)


def _package_json(row: NpmPackage) -> str:
    return f"{AGENT}/npm/{row.path}/package.json"


def _npm_purl(package: str, version: str) -> str:
    from packageurl import PackageURL

    scope, _, name = package.rpartition("/")
    return str(PackageURL("npm", scope or None, name, version).to_string())


def _wheels(
    rows: Iterable[Wheel], files: Mapping[str, bytes], unlisted: dict[str, tuple[str, set[str]]]
) -> Iterator[Component]:
    from packageurl import PackageURL

    metadata = {
        _normal(path.split("/")[-2].removesuffix(".dist-info").partition("-")[0]): data
        for path, data in files.items()
        if path.endswith(".dist-info/METADATA")
    }
    for row in rows:
        purl = str(PackageURL("pypi", None, _normal(row.name), row.version).to_string())
        stated = of_metadata(metadata.get(_normal(row.name), b""))
        licence = _noted(stated, row.name, unlisted).expression
        yield Component(Kind.PYPI, row.name, row.version, purl, row.sha256, licence=licence)


def _normal(name: str) -> str:
    """A PyPI name in its comparable form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _files(plan: Plan) -> Iterator[Component]:
    """Files from the web have no version but their digest."""
    names = {spec.sha256: spec.name for spec in plan.mixtape.extra_packages(plan.arch).url}
    for row in plan.lock.urls:
        yield Component(Kind.URL, names[row.sha256], row.sha256, _url_purl(names[row.sha256], row), row.sha256)


def _url_purl(name: str, row: UrlFile) -> str:
    from packageurl import PackageURL

    qualifiers = {"checksum": f"sha256:{row.sha256}", "download_url": row.url}
    return str(PackageURL("generic", None, name, row.sha256, qualifiers).to_string())


def _ours(image: Tree, revision: str) -> Iterator[Component]:
    """The guest's programs, and the files that are laid over Debian's. Their version is that of the repository."""
    for name, folder in (("stereos-guest", "guest"), ("stereos-overlays", "overlays")):
        content = tree_digest(part(image, folder))
        yield Component(Kind.OURS, name, revision, f"pkg:generic/{name}@{revision}", content=content)
