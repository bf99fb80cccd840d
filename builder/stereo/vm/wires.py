"""Everything that QEMU inherits at one start: sockets, disks, credentials, its network and shares; and its whole argv.

Whatever is opened here is closed at the end of the `with` block, but for our own ends, which are handed out.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from stereo.errors import StereoError
from stereo.vm import credentials, shares
from stereo.vm.clone import clone
from stereo.vm.enclosure import Job, ports_of, uid_for
from stereo.vm.machine import Accelerator, Bridged, MachineSpec, Nat
from stereo.vm.network import mac_address, open_tap, passt_arguments
from stereo.vm.programs import Programs
from stereo.vm.qemu_command import Wiring, command_arguments
from stereo.vm.shares import Served


class Wires:
    """Of one start of a machine with its files in `folder`, and its changes in `overlay`."""

    def __init__(self, spec: MachineSpec, programs: Programs, folder: Path, overlay: Path) -> None:
        self.gate_ports = ports_of(spec.network)
        self._spec, self._programs, self._folder, self._overlay = spec, programs, folder, overlay
        self._enclosed = sys.platform == "linux"
        self._stack = ExitStack()
        self._near: dict[str, socket.socket] = {}
        self._far: dict[str, socket.socket] = {}
        self._served: list[Served] = []
        self._disks: list[int] = []
        self._files: dict[str, str | int] = {}
        self._tap: int | None = None

    def __enter__(self) -> Wires:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self) -> None:
        spec = self._spec
        for name in ("qmp", "console", "control", *(["gate"] if self.gate_ports else [])):
            self._pair(name)
        if isinstance(spec.network, Nat):
            self._programs.need_passt()
            self._pair("network")
        if isinstance(spec.network, Bridged):
            self._tap = open_tap(spec.network)
            self._stack.callback(os.close, self._tap)
        for share in spec.shares:
            self._programs.need_virtiofsd()
            served = shares.connect(share, self._folder)
            self._served.append(served)
            for sock in (served.listening, served.connected):
                self._stack.enter_context(sock)
        credentials.check(spec.credentials)
        if spec.kernel is None:
            for number, (name, value) in enumerate(spec.credentials.items()):
                self._files[f"credential{number}"] = self._in_memory(credentials.smbios_string(name, value))
        self._wiring = self._plug()

    def _pair(self, name: str) -> None:
        self._near[name], self._far[name] = (self._stack.enter_context(sock) for sock in socket.socketpair())

    def _disk(self, path: Path, *, writable: bool) -> str:
        """The name under which QEMU finds an open file; see qemu(1), -add-fd."""
        number = os.open(path, os.O_CLOEXEC | (os.O_RDWR if writable else os.O_RDONLY))
        self._stack.callback(os.close, number)
        self._disks.append(number)
        return f"/dev/fdset/{number}"

    def _in_memory(self, data: bytes) -> int:
        """A file that no disk ever sees."""
        number = os.memfd_create("given")
        self._stack.callback(os.close, number)
        with open(number, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(number, 0, os.SEEK_SET)
        return number

    def _initrd(self, path: Path) -> str | int:
        """The initrd; with credentials a copy that holds them."""
        if not self._spec.credentials:
            return str(path.absolute())
        data = path.read_bytes()
        return self._in_memory(data + credentials.behind_initrd(len(data), self._spec.credentials))

    def _plug(self) -> Wiring:
        spec = self._spec
        code = variables = kernel = initrd = ""
        try:
            if spec.kernel is None:
                firmware = self._programs.need_firmware()
                copy = self._folder / "variables.fd"
                clone(firmware.variables, copy)
                code, variables = self._disk(firmware.code, writable=False), self._disk(copy, writable=True)
            else:
                kernel, initrd = str(spec.kernel.kernel.absolute()), str(spec.kernel.initrd.absolute())
                if self._enclosed:
                    self._files.update(kernel=kernel, initrd=self._initrd(spec.kernel.initrd))
                    kernel, initrd = "/kernel", "/initrd"
            overlay, disk = self._disk(self._overlay, writable=True), self._disk(spec.disk.path, writable=False)
        except OSError as error:
            raise StereoError(f"cannot be opened: {error.strerror}", where=str(error.filename)) from error
        return Wiring(
            qmp=self._far["qmp"].fileno(),
            console=self._far["console"].fileno(),
            control=self._far["control"].fileno(),
            overlay=overlay,
            disk=disk,
            kernel=kernel,
            initrd=initrd,
            firmware_code=code,
            firmware_variables=variables,
            descriptors=tuple(self._disks),
            credentials=tuple(f"/{name}" for name in self._files if name.startswith("credential")),
            network=self._tap if self._tap is not None else self._number("network"),
            mac=mac_address(self._overlay) if self._tap is not None else "",
            shares=tuple(served.connected.fileno() for served in self._served),
        )

    def _number(self, name: str) -> int | None:
        return self._far[name].fileno() if name in self._far else None

    def near(self, name: str) -> socket.socket:
        """Our end; whoever takes it closes it."""
        return socket.socket(fileno=self._near[name].detach())

    def close_far(self) -> None:
        """Let go of what others hold now: so that their end is seen as one."""
        for sock in (
            *self._far.values(),
            *(sock for served in self._served for sock in (served.listening, served.connected)),
        ):
            sock.close()
        if "network" in self._near:
            self._near["network"].close()

    def helpers(self) -> Iterator[tuple[str, list[str], list[int]]]:
        """What has to run beside QEMU: what a person calls it, its argv, and the descriptors that it inherits."""
        network = self._spec.network
        if isinstance(network, Nat):
            number = self._near["network"].fileno()
            argv = [*self._programs.need_passt(), *passt_arguments(number, network.forwards)]
            yield "passt, which serves the network,", argv, [number]
        for served in self._served:
            number = served.listening.fileno()
            argv = [
                *self._programs.need_virtiofsd(),
                *shares.virtiofsd_arguments(served.share, number, os.geteuid(), os.getegid()),
            ]
            yield f"virtiofsd, which serves the share {served.share.tag},", shares.wrapped(argv), [number]

    def qemu(self) -> list[str]:
        """The whole command that becomes QEMU."""
        words = [
            *self._programs.qemu,
            *command_arguments(self._spec, self._wiring, seccomp=self._programs.seccomp),
        ]
        if not self._enclosed:
            return words
        root = self._folder / "root"
        root.mkdir()
        job = Job(
            root=str(root),
            visible=self._programs.visible,
            files=self._files,
            devices=("/dev/null", *(["/dev/kvm"] if self._spec.accelerator is Accelerator.KVM else [])),
            uid=uid_for(self._overlay),
            gate=self._number("gate"),
            listen=self.gate_ports,
        )
        return [*job.prefix(), *words]

    def of_qemu(self) -> list[int]:
        """The descriptors that QEMU inherits."""
        memory = [source for source in self._files.values() if isinstance(source, int)]
        tap = [] if self._tap is None else [self._tap]
        sockets = [sock.fileno() for sock in self._far.values()]
        return [*sockets, *tap, *self._disks, *memory, *self._wiring.shares]
