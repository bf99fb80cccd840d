"""`stereo boot`: start a machine from a dist, and show what it does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread, main_thread
from typing import TYPE_CHECKING, BinaryIO

import click

from stereo.cli.measure import duration
from stereo.cli.options import backend_option, dist_argument, keep
from stereo.cli.output import Output, speaking
from stereo.paths import Cache

if TYPE_CHECKING:
    from stereo.vm.timeline import Timeline

_LEAVE = b"\x1d"  # Ctrl-], as in telnet(1)


@click.command(
    short_help="Boot a dist in a virtual machine.",
    epilog="""\b
Examples:
  stereo boot result --until ready               boot, wait for the guest daemon, shut down, show the phases
  stereo boot result --with kernel --until ready the same without firmware
  stereo boot coder:2026.01.31.0 --until ready   what was pulled, from the local store
  stereo boot result                             on a terminal: stay on the console until the machine ends

What has a '/' or is there is a folder, anything else a NAME[:VERSION] of the local store. The files of
the dist are never written to: the machine gets a throw-away layer over its disk. The accelerator is the
best one that works; STEREO_ACCEL (kvm, hvf, tcg) chooses another. A dist of another architecture than this
machine's is emulated.""",
)
@dist_argument("folder")
@click.option(
    "--with",
    "form",
    type=click.Choice(["raw", "qcow2", "kernel"]),
    default="raw",
    show_default=True,
    help="What to boot: a disk by UEFI, or the kernel directly.",
)
@click.option(
    "--until",
    metavar="TEXT",
    help='"ready", or a text that the console shows: then shut down. Default: ready where nobody types.',
)
@click.option(
    "--timeout", type=click.FloatRange(1), default=300, show_default=True, metavar="S", help="Seconds to wait."
)
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="Processors of the machine.")
@click.option("--memory", type=click.IntRange(128), default=1024, show_default=True, metavar="MiB", help="Its memory.")
@click.option("--network", is_flag=True, help="Give it a network card behind NAT.")
@backend_option
@click.option("--log", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the console there.")
@speaking(as_json=True)
def boot(
    out: Output,
    folder: Path,
    form: str,
    until: str | None,
    timeout: float,
    cpus: int,
    memory: int,
    network: bool,
    backend: str | None,
    log: Path | None,
) -> None:
    """Boot a dist: the raw disk, the qcow2 disk, or its kernel directly."""
    from stereo.dists import dist_in
    from stereo.runner import need_runner
    from stereo.vm.backends import BackendName, choose_backend
    from stereo.vm.boot import BootFiles, Form, MachineSize, attend, make_spec
    from stereo.vm.boot import boot as boot_until
    from stereo.vm.machine import Nat

    if until is None and (out.json or not sys.stdin.isatty()):
        until = "ready"  # nobody is there to end the machine
    cache = Cache.from_environment()
    arch = dist_in(folder).arch
    name = choose_backend(backend, os.environ)
    runner = need_runner(name, cache, out.report, arch)
    size = MachineSize(cpus=cpus, memory=memory)
    card = Nat() if network else None
    spec = make_spec(BootFiles.in_folder(folder), Form(form), arch, runner.accelerator, size=size, network=card)
    keep(folder, *([runner.tree] if runner.tree else []))
    with ExitStack() as stack:
        streams: list[BinaryIO] = [stack.enter_context(log.open("wb"))] if log else []
        if until is None:
            streams.append(sys.stdout.buffer)

        def show(data: bytes) -> None:
            for stream in streams:
                stream.write(data)
                stream.flush()

        if until is None:
            if name is BackendName.APPLEVIRT:
                out.report.note("Nothing can be typed into this console")
            with _typing() as keyboard:
                attend(runner.backend, spec, show, keyboard)
            return
        timeline = boot_until(runner.backend, spec, out.report, until=until, timeout=timeout, sink=show)
    how = {"with": form, "backend": name.value, "accelerator": runner.accelerator.value, "until": until}
    out.result({**how, **timeline.as_dict()}, _text(timeline))


def _text(timeline: Timeline) -> str:
    rows = [(phase.name, phase.seconds) for phase in timeline.phases]
    width = max(len(name) for name, _ in [*rows, ("total", 0.0)])
    scale = 40 / timeline.total if timeline.total > 0 else 0
    lines = [f"{name:<{width}}  {duration(seconds):>9}  {'█' * round(seconds * scale)}" for name, seconds in rows]
    return "\n".join([*(line.rstrip() for line in lines), f"{'total':<{width}}  {duration(timeline.total):>9}"])


class _Keyboard:
    """What is typed at the terminal, each key at once, to be read from `descriptor`; Ctrl-] interrupts us instead."""

    def __init__(self) -> None:
        self.left = False
        self.descriptor, self._writable = os.pipe()

    def pass_on(self, terminal: int) -> None:
        """Read the terminal until Ctrl-]."""
        while data := os.read(terminal, 1024):
            if _LEAVE in data:
                self.left = True
                ident = main_thread().ident
                assert ident is not None
                signal.pthread_kill(ident, signal.SIGINT)  # to that thread: it waits in poll(2), and must wake up
                return
            os.write(self._writable, data)


@contextmanager
def _typing() -> Iterator[int | None]:
    """A descriptor with what is typed; None where nobody types. Whoever leaves with Ctrl-] leaves in good order."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    terminal, keyboard = sys.stdin.fileno(), _Keyboard()
    before = termios.tcgetattr(terminal)
    click.echo("stereo: Ctrl-] ends the machine", err=True)
    tty.setraw(terminal)
    try:
        Thread(target=keyboard.pass_on, args=[terminal], daemon=True).start()
        yield keyboard.descriptor
    except KeyboardInterrupt:
        if not keyboard.left:
            raise
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
