"""Which sandbox a verb means when it is not told: that of the jcard.toml here, else the only one there is."""

from __future__ import annotations

from pathlib import Path

from stereo.errors import UsageError
from stereo.model.toml_text import load_toml
from stereo.sandbox.state import all_folders, check_name

JCARD = "jcard.toml"
_LARGEST = 1 << 20


def pick(name: str | None, here: Path | None = None) -> str:
    """`name`, else what the jcard.toml in `here` (default: the working directory) is called, else the only sandbox.

    Raises UsageError if that leaves none or several, or if the name is none.
    """
    if name is not None:
        return check_name(name)
    names = [folder.name for folder in all_folders()]
    jcard = (here or Path.cwd()) / JCARD
    if jcard.is_file():
        return check_name(_named_in(jcard))
    if len(names) == 1:
        return names[0]
    if not names:
        raise UsageError("there is no sandbox", hint="stereo up, in a folder with a jcard.toml, makes one")
    raise UsageError("which sandbox?", hint=f"name one of {', '.join(names)}")


def _named_in(jcard: Path) -> str:
    """Its name, without minding what else is in it: a variable that is not set is no reason to refuse a `status`."""
    try:
        with jcard.open("rb") as file:
            name = load_toml(file.read(_LARGEST).decode()).get("name", jcard.absolute().parent.name)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(jcard), hint="or name the sandbox") from None
    if not isinstance(name, str):
        raise UsageError("name is not text", where=str(jcard))
    return name
