"""pulled.json: where a pulled dist came from, and which disk formats of it are here.

`pull` writes it beside the files. A dist with one may lack the disks of the other formats; all else must be there. It
is signed by nobody and vouches for nothing: what it excuses is only absent, never different.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from stereo.errors import ProblemsError, StereoError
from stereo.model.manifest import DISK_FILES, PULLED, problems_of

MAX_PULLED = 64 << 10
Format = Literal["raw", "qcow2"]


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class Pulled(BaseModel):
    """The whole of pulled.json. `digest` is that of the image index that the reference led to."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    schema_: Annotated[int, Field(alias="schema", ge=1, le=1)] = 1
    reference: Annotated[str, Field(pattern=r"^[!-~]{1,1024}$")]
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    formats: Annotated[tuple[Format, ...], BeforeValidator(_tuple), Field(min_length=1, max_length=len(DISK_FILES))]

    @property
    def left_out(self) -> frozenset[str]:
        """The files of a dist that were not pulled."""
        return frozenset(name for each in get_args(Format) if each not in self.formats for name in DISK_FILES[each])


def parse_pulled(data: bytes) -> Pulled:
    """Read a pulled.json from anywhere. Raises StereoError, whatever the bytes are."""
    if len(data) > MAX_PULLED:
        raise StereoError(f"is larger than {MAX_PULLED} bytes", where=PULLED)
    try:
        table = json.loads(data.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers that Python refuses, nested too deep
        raise StereoError("is not JSON, or not such JSON as stereo writes", where=PULLED) from error
    try:
        return Pulled.model_validate(table)
    except ValidationError as error:
        raise ProblemsError(problems_of(error, PULLED)) from error


def render_pulled(pulled: Pulled) -> bytes:
    """The file's bytes; `parse_pulled` gives `pulled` back."""
    return json.dumps(pulled.model_dump(mode="json", by_alias=True), indent=2).encode() + b"\n"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)
