"""The lock's text: canonical, reviewable, and safe to read from anybody."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stereo.errors import ProblemsError
from stereo.model.architecture import Architecture
from stereo.model.lock import (
    Deb,
    Lock,
    NpmPackage,
    Suite,
    UrlFile,
    Wheel,
    parse_lock,
    render_lock,
    requested_as,
    sorted_lock,
    unanswered,
)

DIGEST = "ab" * 32


def deb(name: str = "apt", **other: Any) -> Deb:
    fields = {
        "name": name,
        "version": "3.0.4",
        "arch": "amd64",
        "archive": "main",
        "path": f"pool/main/a/{name}/{name}_3.0.4_amd64.deb",
        "size": 10,
        "sha256": DIGEST,
    }
    return Deb.model_validate(fields | other)


def lock(**other: Any) -> Lock:
    return Lock(name="opencode-mixtape", arch=Architecture.X86_64, epoch=1_800_000_000, **other)


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
sizes = st.integers(1, 2**33)
plain = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}", fullmatch=True)
versions = st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,20}", fullmatch=True)
pool_paths = st.from_regex(r"pool/main/[a-z0-9]{1,5}/[a-z0-9][a-z0-9+.~-]{0,20}\.deb", fullmatch=True)
debs = st.builds(
    Deb,
    name=plain,
    version=versions,
    arch=st.sampled_from(["amd64", "arm64", "all"]),
    archive=st.sampled_from(["main", "security"]),
    path=pool_paths,
    size=sizes,
    sha256=digests,
)
npm_names = st.from_regex(r"(@[a-z0-9]{1,8}/)?[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)
npm_packages = st.builds(
    NpmPackage,
    path=st.lists(npm_names, min_size=1, max_size=3).map(lambda parts: "/".join(f"node_modules/{p}" for p in parts)),
    name=npm_names,
    version=st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[0-9A-Za-z.]{1,10})?", fullmatch=True),
    integrity=st.binary(min_size=64, max_size=64).map(lambda raw: "sha512-" + base64.b64encode(raw).decode()),
    size=sizes,
    sha256=digests,
)
wheels = st.builds(
    Wheel,
    name=st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,10}[A-Za-z0-9])?", fullmatch=True),
    version=st.from_regex(r"[0-9][0-9a-z.!+]{0,10}", fullmatch=True),
    filename=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}\.whl", fullmatch=True),
    size=sizes,
    sha256=digests,
)
url_files = st.builds(
    UrlFile,
    url=st.from_regex(r"https://[a-z]{1,10}\.example/[A-Za-z0-9._~!$&()*+,;=:@%/?#\[\]-]{0,30}", fullmatch=True),
    size=sizes,
    sha256=digests,
)
suites = st.builds(
    Suite,
    suite=plain,
    archive=st.sampled_from(["main", "security"]),
    date=st.datetimes().map(lambda moment: moment.strftime("%Y").zfill(4) + moment.strftime("-%m-%dT%H:%M:%SZ")),
)


def rows(strategy: st.SearchStrategy[Any], key: Callable[[Any], object]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=5, unique_by=key).map(tuple)


locks = st.builds(
    Lock,
    name=plain,
    arch=st.sampled_from(Architecture),
    epoch=st.integers(0, 2**35),
    requested=st.dictionaries(
        st.sampled_from(["image", "initrd", "npm", "pypi"]), st.lists(plain, max_size=3, unique=True).map(tuple)
    ),
    suites=rows(suites, lambda row: row.suite),
    debian=st.dictionaries(st.sampled_from(["image", "initrd", "tools"]), rows(debs, lambda row: row.name)),
    npm=rows(npm_packages, lambda row: row.path),
    wheels=rows(wheels, lambda row: row.filename),
    urls=rows(url_files, lambda row: row.url),
)


@settings(max_examples=60)
@given(locks)
def test_what_is_rendered_is_read_back_equal(made: Lock) -> None:
    text = render_lock(made)
    read = parse_lock(text, "some.lock")
    assert read == sorted_lock(made)
    assert render_lock(read) == text


@settings(max_examples=60)
@given(locks, st.randoms())
def test_order_of_rows_does_not_matter(made: Lock, random: Any) -> None:
    def shuffled(items: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(random.sample(items, len(items)))

    other = made.model_copy(
        update={
            "debian": dict(shuffled(tuple((group, shuffled(debs)) for group, debs in made.debian.items()))),
            "npm": shuffled(made.npm),
            "wheels": shuffled(made.wheels),
            "suites": shuffled(made.suites),
        }
    )
    assert other.digest == made.digest


@settings(max_examples=60)
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_with_problems(text: str) -> None:
    with pytest.raises(ProblemsError):
        parse_lock(text, "some.lock")


@settings(max_examples=60)
@given(locks, st.data())
def test_a_damaged_lock_is_read_or_refused_with_problems(made: Lock, data: st.DataObject) -> None:
    text = render_lock(made)
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 20)))
    damaged = text[:begin] + data.draw(st.text(max_size=10)) + text[end:]
    try:
        parse_lock(damaged, "some.lock")
    except ProblemsError:
        return


@pytest.mark.parametrize(
    "text",
    [
        "schema = 1\nx = " + "[" * 100_000,
        "schema = " + "9" * 5000,
        "schema = 1\nname = 1\narch = []\nepoch = inf\ndebian = 3",
        "schema = 1.0",
        "schema = true",
        "\x00",
        "a.b = 1\n[a]\n",
    ],
)
def test_hostile_text_is_refused_with_problems(text: str) -> None:
    with pytest.raises(ProblemsError):
        parse_lock(text, "some.lock")


def test_text_beyond_all_measure_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ProblemsError, match="larger than"):
        parse_lock(" " * (16 * 1024 * 1024 + 1), "some.lock")


def test_every_problem_is_told_at_once() -> None:
    text = render_lock(lock(debian={"image": (deb(),)}))
    text = text.replace("size = 10", "size = -1").replace("epoch = 1800000000", 'epoch = "soon"')
    with pytest.raises(ProblemsError) as caught:
        parse_lock(text, "some.lock")
    assert [problem.key for problem in caught.value.problems] == ["debian.image.0.size", "epoch"]
    assert all(problem.file == "some.lock" and problem.hint for problem in caught.value.problems)


def test_another_schema_is_refused_by_name() -> None:
    with pytest.raises(ProblemsError, match="is 2, this version of stereo reads 1"):
        parse_lock('schema = 2\nnewer = "things"', "some.lock")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Deb, "path", "pool/main/../../etc/passwd.deb"),
        (Deb, "path", "/pool/main/a.deb"),
        (Deb, "path", "pool//a.deb"),
        (Deb, "path", "pool/main/.hidden/a.deb"),
        (Deb, "path", "pool/main/a.deb\n"),
        (Deb, "path", "dists/main/a.deb"),
        (Deb, "name", "-y"),
        (Deb, "name", "a b"),
        (Deb, "version", '1" x="'),
        (Deb, "arch", "i386"),
        (Deb, "archive", "backports"),
        (Deb, "size", 0),
        (Deb, "size", 2**60),
        (Deb, "size", "10"),
        (Deb, "size", True),
        (Deb, "sha256", "AB" * 32),
        (Deb, "sha256", "ab" * 31),
        (NpmPackage, "path", "node_modules/../x"),
        (NpmPackage, "path", "node_modules/x/node_modules/.."),
        (NpmPackage, "path", "node_modules/x/../../y"),
        (NpmPackage, "path", "lib/x"),
        (NpmPackage, "name", ".."),
        (NpmPackage, "name", "@a/../b"),
        (NpmPackage, "version", "latest"),
        (NpmPackage, "integrity", "sha1-AAAA"),
        (Wheel, "filename", "../x.whl"),
        (Wheel, "filename", "x.tar.gz"),
        (Wheel, "name", "--index-url"),
        (Wheel, "version", "1 --index-url x"),
        (UrlFile, "url", "file:///etc/passwd"),
        (UrlFile, "url", 'https://a.example/"'),
        (UrlFile, "url", "https://a.example/ b"),
    ],
)
def test_a_row_that_could_do_harm_is_refused(kind: type[Any], field: str, value: object) -> None:
    good: Mapping[type[Any], Mapping[str, object]] = {
        Deb: deb().model_dump(),
        NpmPackage: {
            "path": "node_modules/x",
            "name": "x",
            "version": "1.0.0",
            "integrity": "sha512-" + "A" * 86 + "==",
            "size": 1,
            "sha256": DIGEST,
        },
        Wheel: {"name": "x", "version": "1", "filename": "x-1-py3-none-any.whl", "size": 1, "sha256": DIGEST},
        UrlFile: {"url": "https://a.example/x", "size": 1, "sha256": DIGEST},
    }
    kind.model_validate(good[kind])
    with pytest.raises(ValueError):
        kind.model_validate({**good[kind], field: value})


def test_a_package_that_is_there_twice_is_refused() -> None:
    text = render_lock(lock(debian={"image": (deb(),)}))
    row = next(line for line in text.splitlines() if 'name = "apt"' in line)
    with pytest.raises(ProblemsError, match="apt is there twice"):
        parse_lock(text.replace(row, f"{row}\n{row}"), "some.lock")


def test_one_package_stands_on_one_line_in_order() -> None:
    text = render_lock(lock(debian={"image": (deb("zsh"), deb("bash"), deb("apt"))}))
    names = [line.split('"')[1] for line in text.splitlines() if line.startswith("  { name")]
    assert names == ["apt", "bash", "zsh"]
    assert tomllib.loads(text)["debian"]["image"][0]["name"] == "apt"


def test_items_name_each_content_once() -> None:
    made = lock(debian={"image": (deb(),), "tools": (deb(), deb("bash", sha256="cd" * 32))})
    assert [item.label for item in made.items()] == ["apt 3.0.4 (amd64)", "bash 3.0.4 (amd64)"]


def test_a_group_that_is_not_there_is_empty() -> None:
    assert lock().tools == ()


def test_a_lock_answers_the_request_that_it_was_made_for() -> None:
    groups = {"image": ["bash", "apt"]}
    made = lock(requested=requested_as(groups, ["a@1.0.0"], []))
    assert unanswered(made, {"image": ["apt", "bash"]}, ["a@1.0.0"]) == []


def test_a_lock_says_what_it_does_not_answer() -> None:
    file = UrlFile(url="https://a.example/x", size=1, sha256=DIGEST)
    made = lock(requested=requested_as({"image": ["apt", "bash"]}, [], ["x==1"]), urls=(file,))
    assert unanswered(made, {"image": ["apt", "zsh"]}, ["y"], ["x==1"], [(file.url, "cd" * 32)]) == [
        "image: zsh is asked for, but not locked",
        "image: bash is locked, but no longer asked for",
        "npm: y is asked for, but not locked",
        "urls: https://a.example/x is asked for, but not locked",
        "urls: https://a.example/x is locked, but no longer asked for",
    ]
