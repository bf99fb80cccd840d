"""Which packages an image, and the tools that build it, are made of; `stereo lock` turns them into exact files."""

from __future__ import annotations

from dataclasses import dataclass

from stereo.model.architecture import Architecture
from stereo.model.lock import Lock, unanswered
from stereo.model.mixtape import Mixtape

# mkosi installs these two first, as debootstrap would: whatever else follows can rely on them.
_BOOTSTRAP = ("?essential", "base-files")

# What every image needs to boot, verify itself and be orchestrated. What a user sees is named by the mixtape.
_SYSTEM = (
    "busybox-static",
    "dmsetup",
    "e2fsprogs",
    "kmod",
    "libpython3-stdlib",
    "nftables",
    "openssh-server",
    "python3-minimal",
    "runsc",
    "sudo",
    "systemd",
    "systemd-boot-efi",
    "systemd-repart",
    "systemd-sysv",
    "tmux",
    "udev",
)

# What builds, derives, checks and boots images: a tree beside the host's own system, so that no host is too old. Each
# host has what it takes for images of both architectures: to run their programs, and to boot them.
_TOOLS = (
    "apt",
    "cpio",
    "cryptsetup-bin",
    "debian-archive-keyring",
    "dosfstools",
    "e2fsprogs",
    "erofs-utils",
    "fdisk",
    "kmod",
    "mawk",
    "mkosi",
    "mtools",
    "ovmf",
    "passt",
    "python3-minimal",
    "python3-pefile",
    "qemu-efi-aarch64",
    "qemu-system-arm",
    "qemu-system-x86",
    "qemu-user",
    "qemu-utils",
    "reprepro",
    "systemd",
    "systemd-boot-efi",
    "systemd-repart",
    "systemd-ukify",
    "virtiofsd",
    "zstd",
)

# What tests and benchmarks hold ours against. No build depends on it, so no bootstrap: only what these programs load.
_TEST_TOOLS = (
    "apache2-utils",
    "casync",
    "cosign",
    "docker-registry",
    "gpgv",
    "libvirt-common",
    "libxml2-utils",
    "oras",
    "skopeo",
    "systemd-container",
)


@dataclass(frozen=True)
class Request:
    """What is asked of a lock, in the terms of `inputs.lock.make_lock`."""

    name: str
    arch: Architecture
    groups: dict[str, tuple[str, ...]]
    npm: tuple[str, ...] = ()
    pypi: tuple[str, ...] = ()
    urls: tuple[tuple[str, str], ...] = ()

    def unanswered(self, lock: Lock) -> list[str]:
        """In which ways `lock` no longer answers this request, in words."""
        return unanswered(lock, self.groups, self.npm, self.pypi, self.urls)


def installed_packages(mixtape: Mixtape, arch: Architecture) -> tuple[str, ...]:
    """Debian packages that mkosi is told to install, sorted."""
    return tuple(sorted({*_SYSTEM, f"linux-image-cloud-{arch.debian}", *mixtape.debian_packages(arch)}))


def image_request(mixtape: Mixtape, arch: Architecture) -> Request:
    """What the lock of a mixtape must hold."""
    extra = mixtape.extra_packages(arch)
    return Request(
        mixtape.name,
        arch,
        {"image": (*_BOOTSTRAP, *installed_packages(mixtape, arch))},
        tuple(spec.requirement for spec in extra.npm),
        tuple(spec.requirement for spec in extra.pypi),
        tuple((spec.url, spec.sha256) for spec in extra.url),
    )


def tools_request(arch: Architecture) -> Request:
    """What the lock of the tools tree must hold."""
    return Request("tools", arch, {"tools": (*_BOOTSTRAP, *_TOOLS)})


def tools_of_tests_request(arch: Architecture) -> Request:
    """What the lock of other projects' programs for tests and benchmarks must hold."""
    return Request("test-tools", arch, {"tools": _TEST_TOOLS})
