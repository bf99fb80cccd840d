"""What an image is made with when nobody says otherwise: this machine's architecture, and the developer's own key."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from stereo.errors import UsageError
from stereo.model.architecture import Architecture
from stereo.paths import user_config

if TYPE_CHECKING:
    from stereo.model.mixtape import Mixtape  # a pull needs none, and soon

_DEV_KEY = "ssh-key.pub"
_LONGEST_KEY = 16 * 1024


def dev_key() -> str | None:
    """The developer's public key, or None when there is none. Raises UsageError when it cannot be read."""
    path = user_config() / _DEV_KEY
    try:
        with path.open("rb") as stream:
            text = stream.read(_LONGEST_KEY + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return text.decode("utf-8", "replace")


def this_machine() -> Architecture:
    """What images are built by, and made for unless told otherwise. Raises UsageError if it is none that we know."""
    try:
        return Architecture.from_machine(platform.machine())
    except ValueError:
        what = f"there is nothing for machines of the kind {platform.machine()}"
        raise UsageError(what, hint=f"one of {', '.join(Architecture)}") from None


def chosen_architecture(mixtape: Mixtape, option: str | None) -> Architecture:
    """The architecture to work for. Raises UsageError when the mixtape is not made for the one that was asked for."""
    wanted = option or this_machine()
    if wanted in mixtape.architectures:
        return Architecture(wanted)
    if option is None:
        return mixtape.architectures[0]
    known = ", ".join(mixtape.architectures)
    raise UsageError(f"{mixtape.name} is not made for {option}", where="--arch", hint=f"its architectures: {known}")
