"""A small plan with something of every source, and the tree that its packages stage would make."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from stereo.build.files import read_repository
from stereo.model.architecture import Architecture
from stereo.model.lock import Deb, Lock, NpmPackage, UrlFile, Wheel
from stereo.model.mixtape import Mixtape, load_mixtape
from stereo.paths import Checkout
from stereo.plan.packages import image_request, tools_request
from stereo.plan.plan import Plan, make_plan
from stereo.sbom.bill import Bill
from stereo.sbom.gather import draw_up
from stereo.sbom.installed import read_tree

ARCH = Architecture.X86_64
EPOCH = 1_790_000_000
KERNEL = "linux-image-6.12.117+deb13-cloud-amd64"
FILES = read_repository(Checkout.containing_this_package())
MIXTAPE = """
summary = "one of each"
extends = "base"
[agent.extra_packages]
npm = [{ name = "@scope/tool" }]
pypi = [{ name = "Some.Tool" }]
[[agent.extra_packages.url]]
name = "thing"
url = "https://example.org/thing?a=b"
sha256 = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
programs = ["thing"]
"""
DEP5 = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: somebody
License: GPL-2+

Files: b
Copyright: somebody
License: Expat or weird~one

License: GPL-2+
 text
"""


def deb(name: str, digit: str, version: str = "1:2.0+dfsg-1", arch: str = "amd64") -> Deb:
    return Deb.model_validate(
        {
            "name": name,
            "version": version,
            "arch": arch,
            "archive": "main",
            "path": f"pool/main/x/{name}.deb",
            "size": 1,
            "sha256": digit * 64,
        }
    )


DEBS = (
    deb("alpha", "1"),
    deb("libbeta++6", "2", "3.1"),
    deb("gamma-data", "3", "1.0", "all"),
    deb("never-installed", "4"),
    deb(KERNEL, "5", "6.12.117-1"),
)
STATUS = f"""Package: alpha
Status: install ok installed
Version: 1:2.0+dfsg-1
Architecture: amd64
Depends: missing | beta-virtual (>= 1), gamma-data:all
Pre-Depends: alpha

Package: libbeta++6
Status: install ok installed
Version: 3.1
Architecture: amd64
Source: beta (3.0)
Provides: beta-virtual (= 3)

Package: gamma-data
Status: install ok installed
Version: 1.0
Architecture: all
Source: gamma

Package: removed
Status: deinstall ok config-files
Version: 1
Architecture: amd64

Package: {KERNEL}
Status: install ok installed
Version: 6.12.117-1
Architecture: amd64
"""
TREE: Mapping[str, bytes | str] = {
    "./usr/lib/os-release": b'ID=debian\nVERSION_ID="13"\n',
    "./var/lib/dpkg/status": STATUS.encode(),
    "./usr/share/doc/alpha/copyright": DEP5,
    "./usr/share/doc/libbeta++6": "alpha",
    "./usr/share/doc/gamma-data/copyright": "../../../share/doc/alpha/copyright",
    f"./usr/share/doc/{KERNEL}/copyright": b"In prose: see /usr/share/common-licenses/GPL-2.\n",
    "./usr/lib/stereos/agent/npm/node_modules/@scope/tool/package.json": b'{"license": "MIT"}',
    "./usr/lib/stereos/agent/python/some_tool-1.5.dist-info/METADATA": (
        b"Metadata-Version: 2.4\nName: Some.Tool\nVersion: 1.5\nLicense-Expression: Apache-2.0 OR MIT\n"
    ),
}
"""Bytes are files, text is where a link leads."""


def make_tree(path: Path, tree: Mapping[str, bytes | str] = TREE) -> Path:
    """A .tar as the packages stage makes it."""
    with tarfile.open(path, "w") as tar:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def mixtape(folder: Path) -> Mixtape:
    for file in Checkout.containing_this_package().mixtapes.glob("base.toml"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "sample.toml").write_text(MIXTAPE)
    return load_mixtape("sample", folder, dev_key=None)


def make_plan_of(folder: Path, debs: tuple[Deb, ...] = DEBS, version: str = "2026.01.31.0") -> Plan:
    tape = mixtape(folder)
    request = image_request(tape, ARCH)
    lock = Lock(
        name=tape.name,
        arch=ARCH,
        epoch=EPOCH,
        requested={**request.groups, "npm": request.npm, "pypi": request.pypi},
        debian={"image": debs},
        npm=(
            NpmPackage(
                path="node_modules/@scope/tool",
                name="@scope/tool",
                version="1.2.3",
                integrity="sha512-" + "A" * 86 + "==",
                size=1,
                sha256="c" * 64,
            ),
        ),
        wheels=(
            Wheel(name="Some.Tool", version="1.5", filename="some_tool-1.5-py3-none-any.whl", size=1, sha256="d" * 64),
        ),
        urls=(UrlFile(url="https://example.org/thing?a=b", size=1, sha256="f" * 64),),
    )
    tools = Lock(
        name="tools",
        arch=ARCH,
        epoch=EPOCH,
        requested=tools_request(ARCH).groups,
        debian={"tools": (deb("mkosi", "e", "27.1-1", "all"), DEBS[0])},
    )
    return make_plan(tape, lock, tools, FILES, version=version, epoch=None, level=3)


def make_bill(folder: Path, tree: Mapping[str, bytes | str] = TREE, revision: str = "abc") -> Bill:
    """The bill of the sample in an empty `folder`."""
    installed = read_tree(make_tree(folder / "tree.tar", tree))
    return draw_up(
        make_plan_of(folder), installed, revision=revision, root_hash="ab" * 32, kernel_version="6.12.117+deb13"
    )
