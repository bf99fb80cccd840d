"""What is said when files cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereo.assemble.files import failures_explained
from stereo.errors import StereoError
from stereo.process import CommandFailed


def test_a_program_that_fills_the_disk_is_told_as_a_full_disk() -> None:
    said = "qemu-img: error while writing at byte 4096: No space left on device"
    with pytest.raises(StereoError) as caught, failures_explained("cannot assemble", Path("/dist")):
        raise CommandFailed(["qemu-img"], 1, said)
    assert str(caught.value).startswith("/dist: cannot assemble: No space left on device (make room")


def test_a_program_that_fails_otherwise_is_told_as_it_is() -> None:
    with pytest.raises(CommandFailed, match="no such option"), failures_explained("cannot assemble", Path("/dist")):
        raise CommandFailed(["qemu-img"], 1, "no such option")
