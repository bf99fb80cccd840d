"""What can go wrong with a registry, so that callers can tell what to do about it. Texts never hold credentials."""

from __future__ import annotations

from stereo.errors import StereoError, shown


class RegistryError(StereoError):
    """A remote did not do what it should. `retryable`: the same request may well succeed later."""

    retryable = False


class NotFound(RegistryError):  # noqa: N818 - each says what happened
    """There is no such tag, manifest, blob or repository."""


def no_version(version: str, where: str) -> NotFound:
    """What to raise when the place `where` has no such tag or digest."""
    return NotFound(f"there is no version {shown(version, 80)}", where=where, hint=f"`stereo tags {where}` lists them")


class Malformed(RegistryError):  # noqa: N818
    """An answer or a document that no honest and working registry gives."""


class DigestMismatch(RegistryError):  # noqa: N818
    """The bytes are not those that the digest or size promised."""


class Denied(RegistryError):  # noqa: N818
    """The registry wants other credentials, or these may not do that; or it wants what we do not give to anybody."""


class Unreachable(RegistryError):  # noqa: N818
    """No answer, or one that broke off or stalled, or "come back later". Worth another try."""

    retryable = True

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None, after: float = 0) -> None:
        super().__init__(what, where=where, hint=hint)
        self.after = after
        """Seconds that the registry asks us to wait."""
