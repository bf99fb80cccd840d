"""publish, tags, inspect and search as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stereo.cli.app import run
from unit.distribution.publishing import VERSION, release, signed


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return release(tmp_path / "dist")


def said(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 0) -> tuple[str, str]:
    assert run([str(word) for word in words]) == status
    return capsys.readouterr()


def test_a_release_goes_to_the_registry_of_the_user_and_is_found_there(
    dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEREO_REGISTRY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    signed(dist, tmp_path)
    out, _ = said(capsys, "publish", dist, "--to", "sample-mixtape", "--json")
    done = json.loads(out)
    assert done["tags"] == [VERSION, "latest"]
    assert "everything was there" in said(capsys, "publish", dist, "--to", "sample-mixtape", "-q")[0]
    assert [line.split() for line in said(capsys, "tags", "sample-mixtape")[0].splitlines()] == [
        [VERSION, "x86_64"],
        ["latest", "->", VERSION, f"({done['digest'][:19]})", "x86_64"],
    ]
    told = json.loads(said(capsys, "tags", "sample-mixtape", "--json")[0])
    assert told["versions"] == [VERSION]
    assert told["architectures"] == {VERSION: ["x86_64"]}
    assert told["floating"] == [
        {"tag": "latest", "digest": done["digest"], "version": VERSION, "architectures": ["x86_64"]}
    ]
    text = said(capsys, "inspect", "sample-mixtape")[0]
    assert done["digest"] in text
    assert "stereos.qcow2.zst" in text
    assert "\nabout x86_64 (amd64)\n" in text
    assert "(not checked)" in text
    told = json.loads(said(capsys, "inspect", f"sample-mixtape:{VERSION}", "--json")[0])
    assert told["digest"] == done["digest"]
    assert [row["format"] for row in told["manifests"]] == ["raw", "qcow2"]
    assert {row["kind"] for row in told["signed"]["amd64"]} == {"release", "provenance"}
    assert "sample-mixtape" in said(capsys, "search", "sample")[0]
    assert json.loads(said(capsys, "search", "nothing", "--json", status=1)[0]) == []
    nothing, why = said(capsys, "search", "nothing", status=1)
    assert nothing == ""
    assert "nothing with releases in" in why


def test_latest_moves_unless_it_names_a_newer_version_or_another_tag_is_wanted(
    dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer, place = release(tmp_path / "newer", "2026.02.01.0"), f"oci:{tmp_path}/r"
    said(capsys, "publish", newer, "--to", place, "--no-tag")
    assert "latest" not in said(capsys, "tags", place)[0]
    said(capsys, "publish", newer, "--to", place)
    said(capsys, "publish", dist, "--to", place)
    said(capsys, "publish", dist, "--to", place, "--tag", "nightly")
    told = said(capsys, "tags", place)[0]
    assert "latest -> 2026.02.01.0" in told
    assert f"nightly -> {VERSION}" in told
    said(capsys, "publish", dist, "--to", place, "--tag", "latest", status=2)
    said(capsys, "publish", dist, "--to", place, "--tag", "latest", "--no-tag", status=2)


def test_latest_never_becomes_another_mixtape(dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, other = f"oci:{tmp_path}/r", release(tmp_path / "other", "2026.02.01.0", name="other-mixtape")
    said(capsys, "publish", dist, "--to", place)
    before = said(capsys, "tags", place)[0]
    for words in ((), ("--tag", "latest")):
        _, complaint = said(capsys, "publish", other, "--to", place, *words, status=2)
        assert "names sample-mixtape, and this is other-mixtape" in complaint
    assert said(capsys, "tags", place)[0] == before


def test_what_nobody_signed_is_published_with_a_word(
    dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, complaint = said(capsys, "publish", dist, "--to", f"oci:{tmp_path}/r", "-q")
    assert "nobody signed" in complaint
    assert "nobody signed it" in said(capsys, "inspect", f"oci:{tmp_path}/r:{VERSION}")[0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--to", "oci:{}/r:2026.01.02.0"], "names a version"),
        (["--to", "https://example.org/base"], "takes nothing"),
        (["--to", "oci:{}/r", "--attestations", "--tag", "latest"], "without --tag"),
        (["--to", "oci:{}/r", "--attestations"], "holds no signed statements"),
        (["--to", "oci:{}/r", "--tag", "2026.01.02.7"], "for ever"),
        (["--to", "oci:{}/r", "--policy", "{}/none.toml"], "cannot be read"),
        ([], "--to"),
    ],
)
def test_wrong_requests_are_refused_and_send_nothing(
    words: list[str], reason: str, dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, complaint = said(capsys, "publish", dist, *(word.format(tmp_path) for word in words), status=2)
    assert reason in complaint
    assert not (tmp_path / "r").exists()


def test_a_version_with_other_bytes_stays(dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"oci:{tmp_path}/r"
    said(capsys, "publish", dist, "--to", place)
    other = release(tmp_path / "other", content=b"other")
    _, complaint = said(capsys, "publish", other, "--to", place, status=1)
    assert "other bytes for amd64" in complaint
    assert "hint: a release never changes" in complaint


@pytest.mark.timeout(60)
@pytest.mark.parametrize("below", ["", "/registry"])
def test_a_layout_in_the_dist_itself_is_refused_and_nothing_is_made_there(
    below: str, dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(dist.rglob("*"))
    for more in ([], ["--attestations"]):
        _, why = said(capsys, "publish", dist, "--to", f"oci:{dist}{below}", *more, status=2)
        assert "lies in the dist itself" in why
    assert sorted(dist.rglob("*")) == before
    said(capsys, "publish", dist, "--to", f"oci:{tmp_path / 'dist-of-others'}", "-q")


def test_a_place_given_as_a_name_and_a_mixtape_as_a_registry_are_told_apart(
    dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"oci:{tmp_path}/published/sample"
    said(capsys, "publish", dist, "--to", place, "-q")
    assert "--in" in said(capsys, "search", place, status=2)[1]
    assert f"stereo tags {place}" in said(capsys, "search", "--in", place, status=2)[1]
    assert "2026.01.02.0" in said(capsys, "search", "--in", tmp_path / "published")[0]


@pytest.mark.parametrize("verb", ["publish", "tags", "inspect", "search"])
def test_every_help_has_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"  stereo {verb}" in said(capsys, verb, "--help")[0]
