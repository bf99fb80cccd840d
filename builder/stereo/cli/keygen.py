"""`stereo keygen`: make a key that signs dists, with the OpenPGP key that goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stereo.cli.output import Output, safe, speaking

if TYPE_CHECKING:
    from stereo.trust.keys import KeyType


@click.command(
    short_help="Make a key that signs dists.",
    epilog="""\b
Examples:
  stereo keygen release                        release.key, .pub, .pgp, .gpg among your keys
  STEREO_KEY_PASSPHRASE=... stereo keygen ci   encrypted; signing then needs the passphrase again
  stereo keygen ci --type ecdsa-p256 --output-dir keys

Give NAME.pub (and NAME.gpg, for gpgv and systemd-sysupdate) to everybody, NAME.key and NAME.pgp to nobody. Nothing is
ever overwritten, and nobody can make a lost key again.""",
)
@click.argument("name")
@click.option(
    "--type", "key_type", type=click.Choice(("ed25519", "ecdsa-p256")), default="ed25519", help="Default: ed25519."
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the four files; default: keys/ in $XDG_CONFIG_HOME/stereo.",
)
@speaking(as_json=True)
def keygen(out: Output, name: str, key_type: KeyType, output_dir: Path | None) -> None:
    """Make the key NAME: Ed25519 or ECDSA P-256, and an OpenPGP key beside it."""
    from stereo.trust.keyfiles import keys_folder, make_key

    made = make_key(name, key_type, output_dir or keys_folder())
    data = {
        "name": name,
        "type": made.public.type,
        "keyid": made.public.keyid,
        "openpgp_fingerprint": made.openpgp_fingerprint,
        "files": {suffix.removeprefix("."): str(path) for suffix, path in made.files.items()},
        "encrypted": made.encrypted,
    }
    lines = [
        f"{name}: {made.public.type}, key id {made.public.keyid}",
        f"OpenPGP fingerprint {made.openpgp_fingerprint}",
        *(safe(str(path)) for path in made.files.values()),
    ]
    if not made.encrypted:
        out.report.note("the secret key is not encrypted: set $STEREO_KEY_PASSPHRASE before keygen to have it so")
    out.result(data, "\n".join(lines))
