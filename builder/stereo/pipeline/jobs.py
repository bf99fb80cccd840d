"""The jobs of a release and their order: what ci/release does on one machine, and what the workflows do on many.

Each job is a script of ci/ under the same name. What others see comes after all that could say it should not be seen.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One job. `each` is for a job that is done for each dist by itself; `secrets` name what it may know of.

    A secret comes as an environment variable, and as nothing else: no file, no argument.
    """

    name: str
    doing: str
    each: bool = False
    secrets: tuple[str, ...] = ()


SIGNING_KEY = "STEREO_SIGNING_KEY"
REBUILDER_KEY = "STEREO_REBUILDER_KEY"
PASSPHRASE = "STEREO_KEY_PASSPHRASE"
REGISTRY_USER, REGISTRY_PASSWORD = "STEREO_REGISTRY_USER", "STEREO_REGISTRY_PASSWORD"

CHECK = Job("check", "Check the checkout")
BUILD = Job("build", "Build", each=True)
REPRODUCE = Job("reproduce", "Build again from nothing, and compare", each=True, secrets=(REBUILDER_KEY, PASSPHRASE))
BOOT = Job("boot", "Boot", each=True)
SIGN = Job("sign", "Sign and attest", each=True, secrets=(SIGNING_KEY, PASSPHRASE))
PUBLISH = Job("publish", "Publish", secrets=(REGISTRY_USER, REGISTRY_PASSWORD))
RETENTION = Job("retention", "Remove old versions", secrets=(REGISTRY_USER, REGISTRY_PASSWORD))

JOBS = (CHECK, BUILD, REPRODUCE, BOOT, SIGN, PUBLISH, RETENTION)
SECRETS = frozenset(secret for job in JOBS for secret in job.secrets)
"""Variables that no other process of a release gets to see."""
