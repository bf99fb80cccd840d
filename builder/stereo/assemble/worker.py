"""A compressor process: one chunk in, one zstd frame out into a file, until its input ends.

Started by `compress` as a program of its own. At level 19 a chunk of 24 MiB takes some 140 MB of memory, which a
builder that has many cores could not bear in one process. Knows nothing of the rest of the package, so that it starts
in no time.

In: a line of JSON {"size": bytes of the chunk, "path": file to write, "name": what the seal binds the frame to}, then
the chunk. Out: a line of JSON, {} or {"errno": number}.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys

import zstandard

SEAL = 32  # bytes behind the frame: SHA-256 of its name and itself
_PR_SET_PDEATHSIG = 1


def compress(chunk: bytes | bytearray | memoryview, level: int) -> bytes:
    """One zstd frame, with content size and checksum; the same bytes wherever zstd has the same version.

    The window covers the chunk, which at level 19 zstd would not do by itself beyond 8 MiB. It stays below the 128 MiB
    that `zstd -d` takes without options.
    """
    window = max(10, (len(chunk) - 1).bit_length())
    natural = zstandard.ZstdCompressionParameters.from_level(level, source_size=len(chunk))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(chunk),
        window_log=max(natural.window_log, window),
        write_content_size=True,
        write_checksum=True,
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(chunk)


def seal(name: str, frame_digest: bytes) -> bytes:
    """What stands behind a frame in the cache. `frame_digest` is the frame's SHA-256."""
    return hashlib.sha256(name.encode() + b"\n" + frame_digest).digest()


def write_frame(path: str, name: str, frame: bytes) -> None:
    """Put frame and seal in a file that is either whole or not there. Raises OSError."""
    partial = f"{path}.{os.getpid()}.part"
    try:
        with open(partial, "wb") as file:
            file.write(frame)
            file.write(seal(name, hashlib.sha256(frame).digest()))
        os.replace(partial, path)  # noqa: PTH105
    except OSError:
        if os.path.exists(partial):  # noqa: PTH110
            os.unlink(partial)  # noqa: PTH108
        raise


def main() -> None:
    """Serve until the input ends or the parent dies."""
    level, parent = int(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    orders = open(0, "rb", closefd=False)  # noqa: SIM115
    while line := orders.readline():
        order = json.loads(line)
        chunk = bytearray(order["size"])
        if orders.readinto(chunk) != len(chunk):
            return
        answer = {}
        try:
            write_frame(order["path"], order["name"], compress(chunk, level))
        except OSError as error:
            answer = {"errno": error.errno}
        del chunk
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
