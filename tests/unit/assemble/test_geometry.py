"""Where a disk is cut finely: around what every version changes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from makers.erofs import make_erofs
from makers.node import Node
from stereo.assemble.chunks import CLUSTER, COARSE, FINE
from stereo.assemble.compress import Span
from stereo.assemble.geometry import geometries

AT = 1 << 20


def disk(folder: Path, root: bytes) -> Path:
    path = folder / "stereos.img"
    path.write_bytes(bytes(AT) + root)
    return path


def root_of(files: dict[str, bytes]) -> bytes:
    folders = {str(Path(name).parents[i]) for name in files for i in range(len(Path(name).parents))}
    nodes = {name: Node(stat.S_IFDIR | 0o755) for name in sorted(folders)}
    nodes |= {name: Node(stat.S_IFREG | 0o644, content) for name, content in files.items()}
    return make_erofs(nodes, layout=4)


def test_what_is_in_front_and_what_stereo_lays_over_is_cut_finely_at_whole_clusters(tmp_path: Path) -> None:
    large = os.urandom(6 * CLUSTER)
    root = root_of({"/usr/bin/a": large, "/usr/lib/os-release": b"VERSION_ID=1\n", "/usr/share/b": large})
    starts = geometries(disk(tmp_path, root), [Span(0, CLUSTER), Span(AT, len(root))])
    at = AT + root.index(b"VERSION_ID") // CLUSTER * CLUSTER
    assert starts == {0: FINE, AT: FINE, AT + CLUSTER: COARSE, at: FINE, at + CLUSTER: COARSE}


def test_an_agents_own_packages_are_cut_coarsely(tmp_path: Path) -> None:
    root = root_of({"/usr/lib/stereos/agent/npm/x": os.urandom(6 * CLUSTER)})
    starts = geometries(disk(tmp_path, root), [Span(AT, len(root))])
    assert starts == {AT: FINE, AT + CLUSTER: COARSE}


def test_a_root_that_is_not_erofs_is_cut_by_its_content_alone(tmp_path: Path) -> None:
    starts = geometries(disk(tmp_path, os.urandom(2 << 20)), [Span(0, AT), Span(AT, 2 << 20)])
    assert starts == {0: FINE, AT: COARSE}


def test_a_disk_without_partitions_has_no_places_of_its_own(tmp_path: Path) -> None:
    assert geometries(disk(tmp_path, b""), []) == {}
