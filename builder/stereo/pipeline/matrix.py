"""The build matrix: many mixtapes on many workers, by Dask's scheduler `distributed`.

Why Dask and not Ray: it is small and pure Python (Ray brings a compiled daemon, an object store and hundreds of MB);
its tasks are named by us, so that content keys are task names and what is shared runs once; and it does the tasks of a
lost worker again by itself. Nothing of it stays running.

Whoever can talk to a scheduler can run code on its workers. Local workers therefore listen on loopback only, and behind
TLS with a certificate that is made for this run and kept in memory, as other users of the machine can reach loopback
too; a scheduler elsewhere is used by TLS alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TextIO

from stereo.errors import StereoError, UsageError
from stereo.pipeline.graph import Task, graph
from stereo.pipeline.task import TOPIC, Settings, perform
from stereo.plan.plan import Plan
from stereo.report import Report

_PATIENCE = 60
"""Seconds to wait for a first worker, and before giving up when none is left."""
# Not what local workers are asked: no pages, no ports besides the ones that tasks go through.
_QUIET = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.no-workers-timeout": f"{_PATIENCE}s",
}


@dataclass(frozen=True)
class Tls:
    """Certificates for a scheduler elsewhere, PEM files: its authority, ours, and our key."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Done:
    """A task that ended. `result` is a path where it went well, `fault` the error where not."""

    task: Task
    result: str | None
    fault: StereoError | None


@contextmanager
def local_workers(count: int) -> Iterator[Any]:
    """A Dask client with `count` worker processes of its own, which end with the block, or with us."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set(_QUIET),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=True,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        cluster.get_client() as client,
    ):
        yield client


@contextmanager
def existing_scheduler(address: str, tls: Tls | None) -> Iterator[Any]:
    """A Dask client of a scheduler that runs already. Raises UsageError, and StereoError if nobody answers."""
    from distributed import Client
    from distributed.security import Security

    refuse_open_lines(address)
    security = None
    if tls:
        files = (tls.authority, tls.certificate, tls.key)
        for path in files:
            if not path.is_file():
                raise UsageError("there is no such file", where=str(path), hint="PEM files of --tls-ca, -cert and -key")
        security = Security(  # type: ignore[no-untyped-call]
            tls_ca_file=str(tls.authority),
            tls_client_cert=str(tls.certificate),
            tls_client_key=str(tls.key),
            require_encryption=True,
        )
    try:
        client = Client(address, security=security, timeout=_PATIENCE)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        hint = "`dask scheduler` starts one"
        raise StereoError(f"no scheduler answers: {error}", where=address, hint=hint) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError as error:
            hint = f"start some, in the same checkout: dask worker {address} --nthreads 1"
            raise StereoError("the scheduler has no workers", where=address, hint=hint) from error
        yield client


def refuse_open_lines(address: str) -> None:
    """Raise UsageError if `address` is not `tls://HOST:PORT`, or `tcp://` to this machine itself."""
    found = re.fullmatch(r"(tls|tcp)://(\[[0-9a-f:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", address)
    if not found or int(found[3]) > 65535:
        raise UsageError(f"{address!r} is no address of a scheduler", where="--scheduler", hint="tls://HOST:PORT")
    try:
        here = ip_address(found[2].strip("[]")).is_loopback
    except ValueError:
        here = found[2] == "localhost"
    if found[1] == "tcp" and not here:
        hint = "start scheduler and workers with --tls-ca-file, --tls-cert and --tls-key, and say tls://"
        raise UsageError("whoever is in between could run code on all workers", where=address, hint=hint)


def run(client: Any, plans: Sequence[Plan], settings: Settings, report: Report, log: Path | None) -> list[Done]:
    """Build `plans` on the workers of `client`. `log` gets a line of JSON for all that a worker does.

    What fails stops only what needs it. Raises nothing for a failed task: it is in the list.
    """
    tasks = graph(plans)
    with log.open("a") if log else nullcontext() as stream:
        client.subscribe_topic(TOPIC, _listener(report, stream))
        futures: dict[str, Any] = {}
        for task in tasks:
            before = [futures[name] for name in task.after]
            futures[task.name] = client.submit(perform, task, settings, *before, key=_key(task, settings))
        try:
            ended = _wait(futures, {task.name: task for task in tasks}, report)
        finally:
            client.cancel(list(futures.values()), force=True)
            client.unsubscribe_topic(TOPIC)
    return [ended[task.name] for task in tasks]


def _key(task: Task, settings: Settings) -> str:
    """The name of the task at the scheduler: a dist is another task when it is wanted in another folder."""
    return f"{task.name}:{settings.output}" if task.step == "dist" else task.name


def _wait(futures: Mapping[str, Any], tasks: Mapping[str, Task], report: Report) -> dict[str, Done]:
    from distributed import as_completed

    names = {future.key: name for name, future in futures.items()}
    ended: dict[str, Done] = {}
    with report.progress("Building", len(tasks), "steps") as progress:
        for future in as_completed(list(futures.values()), raise_errors=False):  # type: ignore[no-untyped-call]
            name = names[future.key]
            fault = _fault(future.exception(), tasks[name]) if future.status != "finished" else None
            result = future.result() if fault is None else None
            ended[name] = Done(tasks[name], result, fault)
            progress.advance(1)
    return ended


def _fault(error: BaseException | None, task: Task) -> StereoError:
    if isinstance(error, StereoError):
        return error
    if type(error).__name__ == "KilledWorker":
        hint = "its memory may be too small; nothing half-done was left"
        return StereoError(f"the {task.title}: every worker that tried has died", hint=hint)
    return StereoError(f"the {task.title}: {type(error).__name__}: {error}")


def _listener(report: Report, stream: TextIO | None) -> Callable[[Any], None]:
    def listen(event: tuple[float, dict[str, Any]]) -> None:
        moment, row = event
        if stream and not stream.closed:
            stream.write(json.dumps({"time": moment, **row}, sort_keys=True) + "\n")
            stream.flush()
        if row["state"] == "warning":
            report.warn(f"{row['title']}: {row['what']}")
        elif row["state"] != "done":
            report.note(f"{row['title']}: {row['what']} ({row['host']}, pid {row['pid']})")

    return listen
