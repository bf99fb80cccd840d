"""What a policy gives up of the store, and what each entry costs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stereo.dists import Entry, entries
from stereo.dists.keep import Cost, Keeping, Row, cost, given_up, rows
from stereo.holding import holding
from stereo.model.manifest import MANIFEST_FILE, is_release

DAY = 86400.0
NOW = 400 * DAY
VERSIONS = ("2026.01.31.0", "2026.01.31.1", "2026.02.01.0", "dev-a", "dev-b", "dev-c")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What an entry may be: a dist, a link to one, a link to nothing, a folder that is none."""
    root = tmp_path_factory.mktemp("places")
    found = {kind: root / kind for kind in ("dist", "link", "broken", "none")}
    found["dist"].mkdir()
    (found["dist"] / MANIFEST_FILE).touch()
    found["link"].symlink_to(found["dist"])
    found["broken"].symlink_to(root / "nothing")
    found["none"].mkdir()
    return found


def row(
    place: Path, version: str, name: str = "base", *, size: int = 0, days: float = 0, user: str | None = None
) -> Row:
    size = 0 if place.is_symlink() else size
    return Row(Entry(name, version, "x86_64", place), Cost(size, size), NOW - days * DAY, user)


def versions(found: Sequence[Row], policy: Keeping) -> list[str]:
    return [each.row.entry.version for each in given_up(found, policy, NOW)]


def test_the_newest_of_each_mixtape_stay_and_dev_builds_are_counted_apart(places: dict[str, Path]) -> None:
    order = ("2026.02.01.0", "2026.01.31.1", "2026.01.31.0", "dev-b", "dev-a")  # as `entries` gives them
    found = [row(places["dist"], version) for version in order] + [row(places["dist"], "2025.01.01.0", "other")]
    assert sorted(versions(found, Keeping(keep=1))) == ["2026.01.31.0", "2026.01.31.1", "dev-a"]
    assert versions(found, Keeping(keep=2)) == ["2026.01.31.0"]
    assert versions(found, Keeping(keep=3)) == []
    assert len(versions(found, Keeping(keep=0))) == len(found)


def test_with_an_age_only_what_is_older_goes(places: dict[str, Path]) -> None:
    found = [row(places["dist"], "2026.02.01.0", days=90), row(places["dist"], "2026.01.31.1", days=10)]
    found.append(row(places["dist"], "2026.01.31.0", days=40))
    assert versions(found, Keeping(keep=1, older_than=timedelta(days=30))) == ["2026.01.31.0"]


def test_with_a_budget_the_oldest_go_until_the_rest_fits(places: dict[str, Path]) -> None:
    order = ("2026.02.01.0", "2026.01.31.1", "2026.01.31.0")
    found = [row(places["dist"], version, size=10, days=days) for days, version in enumerate(order)]
    assert versions(found, Keeping(keep=1, budget=30)) == []
    assert versions(found, Keeping(keep=1, budget=29)) == ["2026.01.31.0"]
    assert versions(found, Keeping(keep=1, budget=0)) == ["2026.01.31.0", "2026.01.31.1"]


_rows = st.lists(
    st.tuples(
        st.sampled_from(["dist", "dist", "link", "broken", "none"]),
        st.sampled_from(["base", "other"]),
        st.integers(0, 50),
        st.integers(0, 100),
        st.booleans(),
    ),
    max_size=len(VERSIONS),
)
_policies = st.builds(
    Keeping,
    keep=st.integers(0, 4),
    older_than=st.none() | st.integers(1, 100).map(lambda days: timedelta(days=days)),
    budget=st.none() | st.integers(0, 200),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=_rows, policy=_policies)
def test_whatever_the_policy_what_must_stay_stays(
    places: dict[str, Path], wanted: list[tuple[str, str, int, int, bool]], policy: Keeping
) -> None:
    found = [
        row(places[kind], version, name, size=size, days=days, user="sandbox s" if used else None)
        for version, (kind, name, size, days, used) in zip(VERSIONS, wanted, strict=False)
    ]
    gone = [each.row for each in given_up(found, policy, NOW)]
    assert len(gone) == len({id(each) for each in gone})
    assert not any(each.user for each in gone)
    assert all(each.broken or each.entry.there for each in gone)
    assert all(each in gone for each in found if each.broken and not each.user)
    kept = Counter((one.entry.name, is_release(one.entry.version)) for one in found if not one.broken)
    kept.subtract((one.entry.name, is_release(one.entry.version)) for one in gone if not one.broken)
    before = Counter((one.entry.name, is_release(one.entry.version)) for one in found if not one.broken)
    assert all(kept[kind] >= min(count, policy.keep) for kind, count in before.items())
    newest: Counter[tuple[str, bool]] = Counter()
    for each in found:
        kind = (each.entry.name, is_release(each.entry.version))
        if not each.broken:
            newest[kind] += 1
            assert newest[kind] > policy.keep or each not in gone
    if policy.budget is not None and sum(one.cost.allocated for one in found if one not in gone) > policy.budget:
        left = [one for one in found if one not in gone and one.cost.allocated and not one.user and one.entry.there]
        counts = Counter((one.entry.name, is_release(one.entry.version)) for one in left)
        assert all(count <= policy.keep for count in counts.values())


def test_a_cost_counts_holes_and_second_names_once(tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    dist.mkdir()
    with (dist / "stereos.img").open("wb") as file:
        file.write(b"x" * 8192)
        file.truncate(1 << 30)
    os.link(dist / "stereos.img", dist / "same")
    found = cost(dist)
    assert found.apparent == 1 << 30
    assert 8192 <= found.allocated < 1 << 20


def test_a_link_costs_nothing(places: dict[str, Path]) -> None:
    (places["dist"] / "file").write_bytes(bytes(8192))
    assert cost(places["link"]) == Cost()
    assert cost(places["dist"]).apparent == 8192


def test_rows_tell_who_uses_what(tmp_path: Path) -> None:
    for version in VERSIONS[:3]:
        (tmp_path / "base" / version / "x86_64").mkdir(parents=True)
    place = tmp_path / "base" / VERSIONS[0] / "x86_64"
    with holding(tmp_path / "base" / VERSIONS[1] / "x86_64"):
        found = rows(entries(tmp_path), {place: "sandbox work"})
    assert {one.entry.version: one.user for one in found} == {
        VERSIONS[0]: "sandbox work",
        VERSIONS[1]: "a running program",
        VERSIONS[2]: None,
    }
