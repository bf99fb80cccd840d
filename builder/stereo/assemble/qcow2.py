"""Derive the qcow2 from the raw disk with qemu-img(1), every option named, so that no default decides its bytes.

Without -W qemu-img writes clusters in the order of the guest, and the file is the same on every run and for a sparse
or a full source; with it, never. The clusters stay uncompressed: zstd over an already compressed qcow2 nearly doubles
the download.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stereo.assemble.chunks import CLUSTER
from stereo.process import run

_OPTIONS = {
    "compat": "1.1",
    "cluster_size": str(CLUSTER),
    "refcount_bits": "16",
    "lazy_refcounts": "off",
    "extended_l2": "off",
    "preallocation": "off",
}


def convert(raw: Path, qcow2: Path, *, qemu_img: Sequence[str], env: Mapping[str, str] | None) -> None:
    """Write `qcow2` from `raw`. `qemu_img` are the first words of the command. Raises CommandFailed."""
    options = ",".join(f"{key}={value}" for key, value in _OPTIONS.items())
    # Two cache modes that keep qemu-img from O_DIRECT and from syncing: we sync once, in the end.
    flags = ["-f", "raw", "-O", "qcow2", "-t", "unsafe", "-T", "writeback", "-m", "1", "-S", "4k", "-o", options]
    run([*qemu_img, "convert", *flags, str(raw), str(qcow2)], env=env)
