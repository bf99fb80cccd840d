"""A bill as a CycloneDX 1.6 document (ECMA-424), made by the library of the format's own project.

That library would fill in what it is not told: a random serial number, the time. It is told.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def render(bill: Bill) -> bytes:
    """The document: UTF-8, sorted, with a newline at its end."""
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
            tools=ToolRepository(components=[_row(component) for component in bill.tools]),
            component=image,
        ),
        components=rows,
        dependencies=_dependencies(bill, image, rows),
    )
    return JsonV1Dot6(bom).output_as_string(indent=1).encode() + b"\n"


def _dependencies(bill: Bill, image: Row, rows: Iterable[Row]) -> list[Dependency]:
    """The image is made of everything; what a component needs of the others is what Debian says of it."""
    references = {row.bom_ref.value: row.bom_ref for row in rows}
    found = [Dependency(image.bom_ref, [Dependency(reference) for reference in references.values()])]
    for component in bill.components:
        needs = [Dependency(references[purl]) for purl in component.needs]
        found.append(Dependency(references[component.purl], needs))
    return found


def _row(component: Component) -> Row:
    return Row(
        type=ComponentType.LIBRARY if component.kind in (Kind.NPM, Kind.PYPI) else ComponentType.APPLICATION,
        name=component.name,
        version=component.version,
        bom_ref=component.purl,
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
