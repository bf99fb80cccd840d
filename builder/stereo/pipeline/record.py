"""What was done already: the result of each piece of work, kept with the digest of what it was made from.

A record holds for as long as these inputs are the same; so a release that was killed or has failed goes on where it
was, and what has changed since is done again. It appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_SCHEMA = 1
_LONGEST = 1 << 20
_NAME = re.compile(r"[a-z0-9][A-Za-z0-9._-]{0,200}")


@dataclass(frozen=True)
class Record:
    """That a piece of work went well. `key` stands for its inputs; `seconds` is what it took."""

    key: str
    inputs: dict[str, str]
    seconds: float
    result: dict[str, Any]


def key_of(inputs: Mapping[str, str]) -> str:
    """SHA-256 that stands for all names and values of `inputs`."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Records:
    """The records of one work folder."""

    folder: Path

    def find(self, name: str, inputs: Mapping[str, str]) -> Record | None:
        """The record of `name`, if it was made from `inputs`. What cannot be read is as none."""
        try:
            with self._path(name).open("rb") as stream:
                document = json.loads(stream.read(_LONGEST))
            schema = document.pop("schema")
            record = Record(**document)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return None
        return record if schema == _SCHEMA and record.key == key_of(inputs) else None

    def keep(self, name: str, inputs: Mapping[str, str], seconds: float, result: Mapping[str, Any]) -> Record:
        """Write the record of `name`, in place of the one before. Raises OSError."""
        record = Record(key_of(inputs), dict(inputs), round(seconds, 3), dict(result))
        write_json(self._path(name), {"schema": _SCHEMA, **asdict(record)})
        return record

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name), name
        return self.folder / f"{name}.json"


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document whole, by a rename, and bring it to the disk. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(json.dumps(document, indent=1, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).rename(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
