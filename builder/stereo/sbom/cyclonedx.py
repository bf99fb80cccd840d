"""A bill as a CycloneDX 1.6 document (ECMA-424), made by the library of the format's own project.

That library would fill in what it is not told: a random serial number, the time. It is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component as Row
from cyclonedx.model.component import ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import LicenseAcknowledgement, LicenseExpression
from cyclonedx.model.lifecycle import LifecyclePhase, PredefinedLifecycle
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from stereo.sbom.bill import Bill, Component, Kind

_FIRST = ("$schema", "bomFormat", "specVersion", "serialNumber", "version", "metadata")
_TYPES = {
    Kind.KERNEL: ComponentType.APPLICATION,
    Kind.OURS: ComponentType.APPLICATION,
    Kind.SYSTEM: ComponentType.OPERATING_SYSTEM,
    Kind.URL: ComponentType.FILE,
}


def document(bill: Bill) -> dict[str, Any]:
    """The document, sorted by the library; what tells the format comes first."""
    image = Row(
        type=ComponentType.CONTAINER,
        name=bill.name,
        version=bill.version,
        bom_ref=bill.purl,
        purl=PackageURL.from_string(bill.purl),
        properties=_properties(
            ("architecture", bill.arch),
            ("kernel-version", bill.kernel_version),
            ("root-hash", bill.root_hash),
            ("source-revision", bill.revision),
        ),
    )
    rows = [_row(component) for component in bill.components]
    bom = Bom(
        serial_number=bill.uuid,
        version=1,
        metadata=BomMetaData(
            timestamp=bill.created,
            lifecycles=[PredefinedLifecycle(LifecyclePhase.BUILD)],
            tools=ToolRepository(components=[_row(tool, "tool:") for tool in bill.tools]),
            component=image,
        ),
        components=rows,
        dependencies=_dependencies(bill, image, rows),
    )
    made: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    return {key: made.pop(key) for key in _FIRST} | made


def _dependencies(bill: Bill, image: Row, rows: Iterable[Row]) -> list[Dependency]:
    """The image is made of everything; what a component needs of the others is what Debian says of it."""
    references = {row.bom_ref.value: row.bom_ref for row in rows}
    found = [Dependency(image.bom_ref, [Dependency(reference) for reference in references.values()])]
    for component in bill.components:
        needs = [Dependency(references[purl]) for purl in component.needs]
        found.append(Dependency(references[component.purl], needs))
    return found


def _row(component: Component, prefix: str = "") -> Row:
    """One component. A reference stands once in a document, also where a tool is the very package of the image."""
    return Row(
        type=_TYPES.get(component.kind, ComponentType.LIBRARY),
        name=component.name,
        version=component.version,
        bom_ref=prefix + component.purl,
        purl=PackageURL.from_string(component.purl),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=component.sha256)] if component.sha256 else [],
        licenses=[LicenseExpression(component.licence, acknowledgement=LicenseAcknowledgement.DECLARED)]
        if component.licence
        else [],
        properties=_properties(
            ("kind", component.kind),
            ("source-package", component.source),
            ("content-sha256", component.content),
            *(("common-licence", hint) for hint in component.hints),
        ),
    )


def _properties(*rows: tuple[str, str | None]) -> list[Property]:
    return [Property(name=f"stereo:{name}", value=str(value)) for name, value in rows if value]
