"""A bill as an SPDX 2.3 document in JSON, made and checked by the library of the format's own project."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
from spdx_tools.spdx.model.actor import Actor, ActorType
from spdx_tools.spdx.model.checksum import Checksum, ChecksumAlgorithm
from spdx_tools.spdx.model.document import CreationInfo, Document
from spdx_tools.spdx.model.extracted_licensing_info import ExtractedLicensingInfo
from spdx_tools.spdx.model.package import ExternalPackageRef, ExternalPackageRefCategory, Package, PackagePurpose
from spdx_tools.spdx.model.relationship import Relationship, RelationshipType
from spdx_tools.spdx.model.spdx_no_assertion import SpdxNoAssertion
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from stereo.errors import StereoError
from stereo.sbom.bill import Bill, Component, Kind
from stereo.sbom.installed import DOCS
from stereo.sbom.licences import licensing

_DOCUMENT = "SPDXRef-DOCUMENT"
_MOST_NAMED = 10
_PURPOSES = {
    Kind.KERNEL: PackagePurpose.APPLICATION,
    Kind.OURS: PackagePurpose.APPLICATION,
    Kind.SYSTEM: PackagePurpose.OPERATING_SYSTEM,
    Kind.URL: PackagePurpose.FILE,
}


def document(bill: Bill) -> dict[str, Any]:
    """The document, in the order of the bill. Raises StereoError if the library's validator finds fault with it."""
    made = Document(
        CreationInfo(
            spdx_version="SPDX-2.3",
            spdx_id=_DOCUMENT,
            name=f"{bill.name}-{bill.version}-{bill.arch}",
            document_namespace=f"https://spdx.org/spdxdocs/{bill.name}-{bill.version}-{bill.uuid}",
            creators=[Actor(ActorType.TOOL, f"stereo-{bill.revision}")],
            created=bill.created.replace(tzinfo=None),
        ),
        packages=[_image(bill), *(_package(row) for row in _rows(bill))],
        relationships=list(_relationships(bill)),
        extracted_licensing_info=[_licence(*row) for row in bill.unlisted],
    )
    if faults := validate_full_spdx_document(made):
        raise StereoError(f"the SPDX document is not valid: {faults[0].validation_message}", where=bill.name)
    found: dict[str, Any] = DocumentConverter().convert(made)  # type: ignore[no-untyped-call]
    return found


def _rows(bill: Bill) -> Iterator[Component]:
    """Components, then the tools that are not among them: a tool may be the very package that is in the image."""
    yield from bill.components
    there = {component.purl for component in bill.components}
    yield from (tool for tool in bill.tools if tool.purl not in there)


def _relationships(bill: Bill) -> Iterator[Relationship]:
    image = _id(bill.purl)
    yield Relationship(_DOCUMENT, RelationshipType.DESCRIBES, image)
    for component in bill.components:
        yield Relationship(image, RelationshipType.CONTAINS, _id(component.purl))
    for component in bill.components:
        for purl in component.needs:
            yield Relationship(_id(component.purl), RelationshipType.DEPENDS_ON, _id(purl))
    for tool in bill.tools:
        yield Relationship(_id(tool.purl), RelationshipType.BUILD_TOOL_OF, image)


def _image(bill: Bill) -> Package:
    return Package(
        spdx_id=_id(bill.purl),
        name=bill.name,
        version=bill.version,
        download_location=SpdxNoAssertion(),
        files_analyzed=False,
        primary_package_purpose=PackagePurpose.OPERATING_SYSTEM,
        comment=f"architecture {bill.arch}, kernel {bill.kernel_version}, root hash {bill.root_hash}",
        external_references=[_purl(bill.purl)],
    )


def _package(component: Component) -> Package:
    declared = licensing().parse(component.licence) if component.licence else SpdxNoAssertion()
    hints = f"the copyright file points to {', '.join(component.hints)}" if component.hints else None
    return Package(
        spdx_id=_id(component.purl),
        name=component.name,
        version=component.version,
        supplier=Actor(ActorType.ORGANIZATION, "Debian") if component.purl.startswith("pkg:deb/") else None,
        download_location=SpdxNoAssertion(),
        files_analyzed=False,
        checksums=[Checksum(ChecksumAlgorithm.SHA256, component.sha256)] if component.sha256 else [],
        source_info=f"built from {component.source}" if component.source else None,
        license_declared=declared,
        license_comment=hints,
        comment=f"SHA-256 of its tree: {component.content}" if component.content else None,
        external_references=[_purl(component.purl)],
        primary_package_purpose=_PURPOSES.get(component.kind, PackagePurpose.LIBRARY),
    )


def _purl(purl: str) -> ExternalPackageRef:
    return ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", purl)


def _licence(reference: str, name: str, users: tuple[str, ...]) -> ExtractedLicensingInfo:
    named = [f"/{DOCS}/{user}/copyright" for user in users[:_MOST_NAMED]]
    more = f", and {len(users) - _MOST_NAMED} more" if len(users) > _MOST_NAMED else ""
    text = f"What Debian's packages name {name!r}; its text is in {', '.join(named)}{more}"
    return ExtractedLicensingInfo(license_id=reference, license_name=name, extracted_text=text)


def _id(purl: str) -> str:
    """An identifier (letters, digits, "." and "-") that tells two purls apart and lets a person recognize them."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", purl.removeprefix("pkg:").partition("?")[0])[:100].strip("-")
    return f"SPDXRef-{name}-{hashlib.sha256(purl.encode()).hexdigest()[:8]}"
