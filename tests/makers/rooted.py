"""Runs a program of an unpacked tree with that tree as its root, for those that have paths of their own built in.

A mount namespace of a moment: the tree's /usr, an /etc with what the caller gives, and one folder of the host
to write to, as /out. The network is the host's, so a server on the loopback can be reached.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stereo.process import run

_ROOT = """
tree=$1 out=$2 given=$3; shift 3
root=$(mktemp -d); trap 'rmdir "$root"' EXIT
mount -t tmpfs -o mode=755 none "$root"
cd "$root"
mkdir usr etc dev proc tmp out run
mount --rbind "$tree/usr" usr
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
for name in null urandom; do touch "dev/$name"; mount --bind "/dev/$name" "dev/$name"; done
mount -t proc none proc
mount --rbind "$out" out
cp -r "$given/." etc
chroot "$root" "$@" || status=$?
cd /; umount -R "$root"
exit "${status:-0}"
"""


def run_rooted(tree: Path, out: Path, etc: Mapping[str, bytes], *argv: str, given: Path) -> str:
    """What `argv` printed, on stdout and stderr. `etc` are files below /etc, laid into the folder `given` on the way.

    Raises StereoError when the program fails.
    """
    for name, data in {"passwd": b"root:x:0:0::/:/bin/sh\n", **etc}.items():
        file = given / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    own = ["--user", "--map-root-user"] if os.geteuid() != 0 else []
    start = ["unshare", *own, "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "sh", "-euc", _ROOT, "sh"]
    done = run([*start, tree, out, given, *argv], timeout=60)
    return done.stdout + done.stderr
