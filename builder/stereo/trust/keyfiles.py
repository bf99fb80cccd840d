"""Where keys lie: four files of one name, in `$XDG_CONFIG_HOME/stereo/keys` or in any folder.

NAME.key and NAME.pgp are secret: made readable by their owner alone, and refused when others may read them. NAME.pub
and NAME.gpg (an OpenPGP certificate, for gpgv and systemd) are for everybody.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stereo.assemble.files import settle_folder
from stereo.errors import StereoError, UsageError
from stereo.paths import stereo_config
from stereo.trust import openpgp
from stereo.trust.keys import MAX_BYTES, PASSPHRASE, KeyType, PublicKey, SecretKey, parse_secret

SECRET, PUBLIC, OPENPGP_SECRET, OPENPGP_CERTIFICATE = ".key", ".pub", ".pgp", ".gpg"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class KeyFiles:
    """A key that was made, and its files by suffix."""

    public: PublicKey
    openpgp_fingerprint: str
    files: Mapping[str, Path]
    encrypted: bool


def keys_folder() -> Path:
    """The user's own keys."""
    return stereo_config() / "keys"


def make_key(name: str, key_type: KeyType, folder: Path) -> KeyFiles:
    """Make a key and the OpenPGP key that goes with it, as four files in `folder`; $STEREO_KEY_PASSPHRASE encrypts.

    Never overwrites: raises UsageError if one of the files is there. Killed half-way, it leaves less than four files
    and no NAME.key, which comes last.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a key", hint="letters, digits, '.', '_', '-'; at most 64")
    files = {suffix: folder / f"{name}{suffix}" for suffix in (OPENPGP_CERTIFICATE, OPENPGP_SECRET, PUBLIC, SECRET)}
    for path in files.values():
        if os.path.lexists(path):
            raise UsageError("is there already, and keys are never overwritten", where=str(path), hint="another name?")
    passphrase = _passphrase()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = SecretKey.generate(key_type)
    pair = openpgp.generate(name, passphrase)
    content = {
        OPENPGP_CERTIFICATE: pair.certificate,
        OPENPGP_SECRET: pair.secret,
        PUBLIC: key.public.pem,
        SECRET: key.pem(passphrase),
    }
    written: list[Path] = []
    try:
        for suffix, path in files.items():
            secret = suffix in (SECRET, OPENPGP_SECRET)
            _create(path, content[suffix], 0o600 if secret else 0o644, written)
        settle_folder(folder)
    except BaseException:
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise
    return KeyFiles(key.public, pair.fingerprint, files, passphrase is not None)


def find_key(text: str) -> Path:
    """The secret key that a user means: the NAME of one of the user's own, "-" for stdin, else a file."""
    own = keys_folder() / f"{text}{SECRET}"
    is_name = _NAME.fullmatch(text) is not None
    if is_name and own.is_file():
        return own
    if text == "-" or not is_name or Path(text).exists():
        return Path(text)
    known = ", ".join(key_names()) or "none; make one with `stereo keygen`"
    raise UsageError(f"there is no key {text!r}", where=str(keys_folder()), hint=f"your keys: {known}")


def key_names() -> list[str]:
    """Names of the user's own keys."""
    return sorted(path.stem for path in keys_folder().glob(f"*{SECRET}"))


def load_secret(path: Path) -> SecretKey:
    """Read a secret key from a file, or from stdin for "-", and the OpenPGP key in the same text or in the .pgp beside.

    Opened with $STEREO_KEY_PASSPHRASE if encrypted. Raises UsageError, also when others may read the file.
    """
    passphrase = _passphrase()
    if str(path) == "-":
        return parse_secret(sys.stdin.buffer.read(MAX_BYTES + 1), "(stdin)", passphrase)
    key = parse_secret(_read(path, secret=True), str(path), passphrase)
    beside = path.with_suffix(OPENPGP_SECRET)
    if key.openpgp is None and beside.exists():
        key.openpgp = openpgp.Signer(_read(beside, secret=True), passphrase, str(beside))
    return key


def load_public(path: Path) -> PublicKey:
    """Read a public key from a file. Raises UsageError."""
    own = keys_folder() / f"{path}{PUBLIC}"
    if not path.exists() and own.is_file():  # a name, as those who sign may say
        raise UsageError("there is no such file", where=str(path), hint=f"your key of that name: {own}")
    return PublicKey(_read(path, secret=False), str(path))


def load_certificate(path: Path) -> bytes:
    """Read an OpenPGP certificate (binary, or armored) from a file. Raises UsageError."""
    data = _read(path, secret=False)
    openpgp.refuse_no_certificate(data, str(path))
    return data


def _passphrase() -> str | None:
    return os.environ.get(PASSPHRASE) or None


def _read(path: Path, *, secret: bool) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError("is not a plain file", where=str(path), hint="a key from elsewhere comes on stdin: `-`")
        if secret and path.suffix in (PUBLIC, OPENPGP_CERTIFICATE):
            hint = f"give the .key: {path.with_suffix(SECRET)}"
            raise UsageError("is a file for everybody, and no secret key", where=str(path), hint=hint)
        if secret and status.st_mode & 0o077:
            raise UsageError("others may read this secret key", where=str(path), hint=f"chmod 600 {path}")
        with open(fd, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(fd)


def _create(path: Path, data: bytes, mode: int, written: list[Path]) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise UsageError("is there already, and keys are never overwritten", where=str(path)) from error
    except OSError as error:
        raise StereoError(f"cannot be written: {error.strerror}", where=str(path)) from error
    written.append(path)
    with open(fd, "wb") as file:
        os.fchmod(fd, mode)  # not what the umask leaves of it
        file.write(data)
        file.flush()
        os.fsync(fd)
