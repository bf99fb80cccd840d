"""Downloads against a mirror that misbehaves in every way that we have met or feared."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stereo.errors import StereoError
from stereo.inputs import fetch
from stereo.inputs.fetch import Wanted, fetch_all
from stereo.inputs.http import Http
from stereo.inputs.store import Store
from stereo.report import Progress, Silent
from unit.inputs import loopback
from unit.inputs.loopback import Mirror

CONTENT = bytes(range(256)) * 2000
PATH = "/pool/main/a/apt/apt_3.0.4_amd64.deb"


def wanted(*mirrors: Mirror, content: bytes = CONTENT, path: str = PATH, label: str = "apt 3.0.4") -> Wanted:
    digest = hashlib.sha256(content).hexdigest()
    return Wanted(label, digest, len(content), tuple(mirror.url.rstrip("/") + path for mirror in mirrors))


def get(store: Store, *items: Wanted, jobs: int = 2) -> dict[str, str]:
    with Http() as http:
        return fetch_all(items, store, Silent(), http=http, jobs=jobs)


def part_sizes(store: Store) -> list[int]:
    return [path.stat().st_size for path in (store.root / "part").iterdir()]


class Gauge(Silent):
    """Remembers what was reported as done."""

    def __init__(self) -> None:
        self.done = 0
        self.total: int | None = None

    def advance(self, amount: int) -> None:
        assert amount > 0
        self.done += amount

    @contextmanager
    def progress(self, doing: str, total: int | None, unit: str = "B") -> Iterator[Progress]:
        self.total = total
        yield self


def test_a_file_is_fetched_into_the_store(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    item = wanted(mirror)
    assert get(store, item) == {}
    assert store.verified(item.sha256).read_bytes() == CONTENT
    assert part_sizes(store) == []


@pytest.mark.parametrize(
    "behaviour",
    [
        loopback.breaks_off(1000),
        loopback.breaks_off(1000, reset=True),
        loopback.breaks_off(0),
        loopback.status(500),
        loopback.status(503),
        loopback.status(429),
    ],
    ids=["short body", "reset", "no body", "500", "503", "429"],
)
def test_what_may_pass_is_tried_again(mirror: Mirror, store: Store, behaviour: loopback.Behaviour) -> None:
    mirror.files[PATH] = CONTENT
    mirror.behaviours[PATH] = [behaviour, behaviour]
    item = wanted(mirror)
    assert get(store, item) == {}
    assert store.has(item.sha256)
    assert len(mirror.requests) == 3


def test_a_broken_download_is_resumed_where_it_broke(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    mirror.behaviours[PATH] = [loopback.breaks_off(70_000)]
    assert get(store, wanted(mirror)) == {}
    assert [request.headers.get("range") for request in mirror.requests] == [None, "bytes=70000-"]


def test_a_later_run_resumes_what_an_earlier_one_left(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    item = wanted(mirror)
    store.part_of(item.sha256).write_bytes(CONTENT[:123])
    assert get(store, item) == {}
    assert mirror.requests[0].headers["range"] == "bytes=123-"


@pytest.mark.parametrize(
    "behaviour",
    [loopback.ignores_range, loopback.wrong_range, loopback.status(416)],
    ids=["ignored", "another range", "416"],
)
def test_a_server_that_does_not_honour_ranges_is_asked_for_all(
    mirror: Mirror, store: Store, behaviour: loopback.Behaviour
) -> None:
    mirror.files[PATH] = CONTENT
    mirror.behaviours[PATH] = [behaviour]
    item = wanted(mirror)
    store.part_of(item.sha256).write_bytes(CONTENT[:123])
    assert get(store, item) == {}
    assert store.has(item.sha256)


def test_a_rotten_part_does_not_spoil_a_good_source(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    item = wanted(mirror)
    store.part_of(item.sha256).write_bytes(b"rot" * 100)
    assert get(store, item) == {}
    assert store.has(item.sha256)


@pytest.mark.parametrize("extra", [0, 1, 1000], ids=["same size", "one more", "longer"])
def test_a_part_of_full_size_or_more_is_not_trusted(mirror: Mirror, store: Store, extra: int) -> None:
    mirror.files[PATH] = CONTENT
    item = wanted(mirror)
    store.part_of(item.sha256).write_bytes(b"x" * (len(CONTENT) + extra))
    assert get(store, item) == {}
    assert store.verified(item.sha256).read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_the_next_mirror_asked(mirror: Mirror, other: Mirror, store: Store) -> None:
    mirror.files[PATH] = other.files[PATH] = CONTENT
    mirror.behaviours[PATH] = [loopback.wrong_bytes]
    item = wanted(mirror, other)
    assert get(store, item) == {}
    assert store.verified(item.sha256).read_bytes() == CONTENT
    assert (len(mirror.requests), len(other.requests)) == (1, 1)


def test_wrong_bytes_everywhere_are_named(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT[::-1]
    item = wanted(mirror)
    failures = get(store, item)
    assert "sends other bytes than the lock names" in failures["apt 3.0.4"]
    assert not store.has(item.sha256)


@pytest.mark.parametrize("longer", [1, 10_000])
def test_a_file_longer_than_the_lock_says_is_not_read(mirror: Mirror, store: Store, longer: int) -> None:
    mirror.files[PATH] = CONTENT + b"x" * longer
    assert "sends more than" in get(store, wanted(mirror))["apt 3.0.4"]
    assert len(mirror.requests) == 1


def test_an_endless_body_is_cut_off_at_the_locked_size(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    mirror.behaviours[PATH] = [loopback.endless] * 10
    began = time.monotonic()
    assert "sends more than" in get(store, wanted(mirror))["apt 3.0.4"]
    assert time.monotonic() - began < 30
    assert max(part_sizes(store), default=0) == 0


def test_a_file_shorter_than_the_lock_says_is_refused(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT[:-1]
    item = wanted(mirror)
    assert "apt 3.0.4" in get(store, item)
    assert not store.has(item.sha256)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_what_a_mirror_does_not_have_is_not_asked_for_twice(
    mirror: Mirror, other: Mirror, store: Store, code: int
) -> None:
    mirror.behaviours[PATH] = [loopback.status(code)]
    other.files[PATH] = CONTENT
    assert get(store, wanted(mirror, other)) == {}
    assert len(mirror.requests) == 1


def test_a_mirror_that_cannot_be_reached_is_passed_over(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    item = wanted(mirror)
    nobody = Wanted(item.label, item.sha256, item.size, ("http://127.0.0.1:1" + PATH, *item.urls))
    assert get(store, nobody) == {}


def test_all_that_is_gone_is_named_with_every_source(mirror: Mirror, other: Mirror, store: Store) -> None:
    items = [wanted(mirror, other, path=f"/{name}", content=name.encode(), label=name) for name in ("a", "b", "c")]
    mirror.files["/b"] = b"b"
    failures = get(store, *items)
    assert sorted(failures) == ["a", "c"]
    assert failures["a"] == f"{mirror.url}a answers 404; {other.url}a answers 404"
    assert part_sizes(store) == []


def test_no_source_at_all_is_a_reason(store: Store) -> None:
    assert get(store, wanted()) == {"apt 3.0.4": "no source is configured"}


def test_npm_integrity_is_held_against_the_bytes_too(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    plain = wanted(mirror)
    good = "sha512-" + base64.b64encode(hashlib.sha512(CONTENT).digest()).decode()
    bad = "sha512-" + base64.b64encode(hashlib.sha512(b"").digest()).decode()
    failures = get(store, Wanted(plain.label, plain.sha256, plain.size, plain.urls, bad))
    assert "npm's integrity does not fit" in failures["apt 3.0.4"]
    assert get(store, Wanted(plain.label, plain.sha256, plain.size, plain.urls, good)) == {}


def test_a_mirror_on_the_disk_serves_too(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("disk mirror")
    (folder / "a.deb").write_bytes(CONTENT)
    plain = wanted()
    item = Wanted(plain.label, plain.sha256, plain.size, (f"file://{folder}/none", (folder / "a.deb").as_uri()))
    assert get(store, item) == {}
    assert store.has(item.sha256)


def test_progress_counts_every_byte_once_however_often_it_is_fetched(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    mirror.behaviours[PATH] = [loopback.breaks_off(90_000), loopback.wrong_bytes, loopback.breaks_off(5)]
    gauge = Gauge()
    with Http() as http:
        assert fetch_all([wanted(mirror)], store, gauge, http=http) == {}
    assert gauge.done == gauge.total == len(CONTENT)


def test_many_files_share_connections_and_all_arrive(mirror: Mirror, store: Store) -> None:
    items = []
    for number in range(60):
        content = str(number).encode() * 100
        mirror.files[f"/{number}"] = content
        items.append(wanted(mirror, content=content, path=f"/{number}", label=str(number)))
    assert get(store, *items, jobs=8) == {}
    assert all(store.has(item.sha256) for item in items)


def test_what_another_process_is_fetching_is_waited_for(mirror: Mirror, store: Store) -> None:
    item = wanted(mirror)
    part = store.part_of(item.sha256)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    def finish() -> None:
        time.sleep(0.3)
        part.write_bytes(CONTENT)
        store.adopt(part, item.sha256)
        os.close(descriptor)

    thread = threading.Thread(target=finish)
    thread.start()
    assert get(store, item) == {}
    thread.join()
    assert mirror.requests == []


def test_what_another_process_gave_up_is_begun_anew(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    item = wanted(mirror)
    part = store.part_of(item.sha256)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    def give_up() -> None:
        time.sleep(0.3)
        part.unlink()
        os.close(descriptor)

    thread = threading.Thread(target=give_up)
    thread.start()
    assert get(store, item) == {}
    thread.join()
    assert store.has(item.sha256)


def test_a_body_of_unstated_length_that_ends_early_is_resumed(mirror: Mirror, store: Store) -> None:
    mirror.files[PATH] = CONTENT
    mirror.behaviours[PATH] = [loopback.ends_early(70_000)]
    assert get(store, wanted(mirror)) == {}
    assert mirror.requests[1].headers["range"] == "bytes=70000-"


def test_an_interruption_ends_a_stalled_download_at_once(
    mirror: Mirror, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.files[PATH] = CONTENT
    mirror.behaviours[PATH] = [loopback.stalls(70_000)]

    def interrupted(*words: object, **more: object) -> None:
        while not (store.root / "part").exists() or 70_000 not in part_sizes(store):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "wait", interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        get(store, wanted(mirror))
    assert time.monotonic() - began < 30
    assert part_sizes(store) == [70_000]


def test_a_dribbling_server_is_given_up(mirror: Mirror, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_PATIENCE", -1.0)
    monkeypatch.setattr(fetch, "_SLOWEST", 1 << 60)
    mirror.files[PATH] = CONTENT
    assert "has stalled" in get(store, wanted(mirror))["apt 3.0.4"]


def test_a_full_disk_is_one_clear_error(mirror: Mirror, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.files[PATH] = CONTENT

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "adopt", full)
    with pytest.raises(StereoError, match="No space left on device") as caught:
        get(store, wanted(mirror))
    assert caught.value.hint is not None
    assert "stereo clean" in caught.value.hint


def test_credentials_of_a_mirror_reach_it_and_no_message(mirror: Mirror, store: Store) -> None:
    item = wanted(mirror)
    url = item.urls[0].replace("http://", "http://user:s3cret@")
    failures = get(store, Wanted(item.label, item.sha256, item.size, (url,)))
    assert mirror.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"user:s3cret").decode()
    assert "s3cret" not in failures["apt 3.0.4"]
