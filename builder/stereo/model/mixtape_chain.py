"""The files behind a mixtape: which there are, what each says, and the chain from the first ancestor to the last child.

Every file is read once and its problems are kept with it, so that one run tells about all files at once.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from stereo.errors import Problem, ProblemsError, UsageError
from stereo.model.document import MOST_BYTES, nearest, parse_toml, validate
from stereo.model.mixtape_file import MixtapeFile
from stereo.model.mixtape_values import NAME_PATTERN

DEV_SUFFIX = "-dev"
RESERVED = ("tools", "test-tools")
_DEEPEST_CHAIN = 16
_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True)
class Source:
    """A file of mixtapes/ after parsing; `label` names it in messages."""

    name: str
    label: str
    content: MixtapeFile


@dataclass(frozen=True)
class Chain:
    """A mixtape's files, first ancestor first. Cut short where `problems` say why."""

    sources: tuple[Source, ...]
    problems: tuple[Problem, ...]


class Library:
    """The folder of mixtapes."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError when there is no such folder."""
        if not folder.is_dir():
            raise UsageError("no folder of mixtapes", where=str(folder), hint="run stereo in a complete checkout")
        self._folder = folder
        self._read: dict[str, Source | ProblemsError] = {}
        self._parents: dict[str, str] = {}
        self.names = sorted(path.name.removesuffix(".toml") for path in folder.glob("*.toml"))

    def source(self, name: str) -> Source:
        """The file of `name`. Raises ProblemsError with all that is wrong with it."""
        if name not in self._read:
            try:
                self._read[name] = self._parse(name)
            except ProblemsError as error:
                self._read[name] = error
        found = self._read[name]
        if isinstance(found, ProblemsError):
            raise found
        return found

    def _label(self, name: str) -> str:
        return f"{self._folder.name}/{name}.toml"

    def _parse(self, name: str) -> Source:
        label = self._label(name)
        if not _NAME.fullmatch(name) or name.endswith(DEV_SUFFIX) or name in RESERVED:
            hint = (
                "a name has lower-case letters, digits and '-', begins with a letter, does not end in -dev,"
                " and is not 'tools' or 'test-tools', whose locks are those of what builds and tests"
            )
            raise ProblemsError([Problem(label, "-", "the file's name is no name for a mixtape", hint)])
        try:
            # Without O_NONBLOCK a FIFO of that name would hang us before fstat(2) can tell what it is.
            descriptor = os.open(self._folder / f"{name}.toml", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as stream:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ProblemsError([Problem(label, "-", "not a regular file", "make it a file, or remove it")])
                data = stream.read(MOST_BYTES + 1)
        except OSError as error:
            hint = "mend or remove it"
            raise ProblemsError([Problem(label, "-", f"cannot be read: {error.strerror}", hint)]) from error
        table = parse_toml(data, label)
        if isinstance(parent := table.get("extends"), str) and _NAME.fullmatch(parent):
            self._parents[name] = parent
        return Source(name, label, validate(table, MixtapeFile, label))

    def chain(self, name: str) -> Chain:
        """`name` and all that it extends."""
        sources: list[Source] = []
        problems: list[Problem] = []
        names: list[str] = []
        following: str | None = name
        while following is not None:
            names.append(following)
            try:
                sources.insert(0, self.source(following))
            except ProblemsError as error:  # its ancestors may have problems too, and one run tells of all
                problems.extend(error.problems)
            label, following = self._label(following), self._parents.get(following)
            fault = self._fault_of_parent(following, names)
            if fault is not None:
                problems.append(Problem(label, "extends", *fault))
                break
        return Chain(tuple(sources), tuple(problems))

    def _fault_of_parent(self, parent: str | None, names: list[str]) -> tuple[str, str | None] | None:
        """What is wrong with `parent` as the next in the line `names`: a message and perhaps a hint."""
        if parent is None:
            return None
        if parent in names:
            circle = " -> ".join([*names[names.index(parent) :], parent])
            return f"goes round in a circle: {circle}", "take `extends` out of one of them"
        if parent not in self.names:
            return f"there is no mixtape {parent!r}", nearest(parent, self.names)
        if len(names) == _DEEPEST_CHAIN:
            return f"more than {_DEEPEST_CHAIN} generations", "extend an earlier one"
        return None
