"""Locking wheels with pip, from a folder of wheels that the tests make."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from stereo.errors import ProblemsError, StereoError
from stereo.inputs import pypi
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.report import Silent


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(
    index: Path, name: str, version: str = "1.0", requires: Sequence[str] = (), tag: str = "py3-none-any"
) -> Path:
    path = index / f"{name}-{version}-{tag}.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    metadata += "Provides-Extra: more\n"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"# {name} {version}\n")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def resolve(store: Store, *specs: str, arch: Architecture = Architecture.X86_64) -> list[str]:
    return [found.filename for found in pypi.resolve(specs, arch, store=store, report=Silent())]


def test_a_project_is_locked_with_what_it_requires(index: Path, store: Store) -> None:
    wheel(index, "tool", "1.0")
    wheel(index, "tool", "2.0", ["library>=1"])
    wheel(index, "library", "1.5")
    wheel(index, "unrelated")
    (library, tool) = pypi.resolve(["tool"], Architecture.X86_64, store=store, report=Silent())
    assert (library.name, library.version, tool.name, tool.version) == ("library", "1.5", "tool", "2.0")
    assert store.verified(tool.sha256).stat().st_size == tool.size


def test_markers_are_held_against_the_images_python_not_against_ours(index: Path, store: Store) -> None:
    wheel(index, "tool", requires=['new; python_version >= "3.13"', 'old; python_version < "3.13"'])
    wheel(index, "new", requires=["deeper"])
    wheel(index, "deeper")
    wheel(index, "old")
    found = resolve(store, "tool")
    assert found == ["deeper-1.0-py3-none-any.whl", "new-1.0-py3-none-any.whl", "tool-1.0-py3-none-any.whl"]


def test_an_extra_brings_what_it_requires(index: Path, store: Store) -> None:
    wheel(index, "tool", requires=['library; extra == "more"'])
    wheel(index, "library")
    assert resolve(store, "tool[more]") == ["library-1.0-py3-none-any.whl", "tool-1.0-py3-none-any.whl"]


def test_the_wheel_for_the_images_machine_is_taken(index: Path, store: Store) -> None:
    for machine in ("x86_64", "aarch64"):
        wheel(index, "tool", tag=f"cp313-cp313-manylinux_2_28_{machine}")
    wheel(index, "tool", tag="cp311-cp311-manylinux_2_28_aarch64")
    assert resolve(store, "tool", arch=Architecture.AARCH64) == ["tool-1.0-cp313-cp313-manylinux_2_28_aarch64.whl"]


@pytest.mark.parametrize(
    "tag", ["cp313-cp313-win_amd64", "cp313-cp313-musllinux_1_2_x86_64", "cp311-cp311-linux_x86_64"]
)
def test_without_a_wheel_that_fits_the_project_is_named(index: Path, store: Store, tag: str) -> None:
    wheel(index, "tool", tag=tag)
    with pytest.raises(StereoError, match=r"no set of wheels for tool"):
        resolve(store, "tool")


@pytest.mark.parametrize("spec", ["tool @ https://a.invalid/x.whl", "--index-url=x", "../tool", "tool==", "-r x"])
def test_what_is_no_requirement_never_reaches_pip(store: Store, spec: str) -> None:
    with pytest.raises(ProblemsError):
        resolve(store, spec)


def test_a_locked_wheel_is_fetched_again(index: Path, store: Store, tmp_path: Path) -> None:
    wheel(index, "tool", requires=["library"])
    wheel(index, "library")
    locked = pypi.resolve(["tool"], Architecture.X86_64, store=store, report=Silent())
    empty = Store(tmp_path / "empty")
    assert pypi.fetch(locked, Architecture.X86_64, store=empty, report=Silent()) == {}
    assert all(empty.has(one.sha256) for one in locked)


def test_a_wheel_that_has_changed_or_gone_is_named(index: Path, store: Store, tmp_path: Path) -> None:
    changed = wheel(index, "changed")
    gone = wheel(index, "gone")
    locked = pypi.resolve(["changed", "gone"], Architecture.X86_64, store=store, report=Silent())
    changed.write_bytes(changed.read_bytes() + b"!")
    gone.unlink()
    empty = Store(tmp_path / "empty")
    failures = pypi.fetch(locked, Architecture.X86_64, store=empty, report=Silent())
    assert sorted(failures) == ["changed 1.0 (wheel)", "gone 1.0 (wheel)"]
    assert not any(empty.has(one.sha256) for one in locked)


def test_pips_word_alone_is_not_trusted(
    index: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheel(index, "tool")
    locked = pypi.resolve(["tool"], Architecture.X86_64, store=store, report=Silent())
    monkeypatch.setattr(pypi, "_pip", lambda _words, _arch, folder: (folder / made.name).write_bytes(b"other"))
    empty = Store(tmp_path / "empty")
    failures = pypi.fetch(locked, Architecture.X86_64, store=empty, report=Silent())
    assert failures == {"tool 1.0 (wheel)": "pip brought another file than the lock names"}
    assert not empty.has(locked[0].sha256)


def test_a_wheel_that_is_none_is_an_error_not_a_crash(tmp_path: Path) -> None:
    broken = tmp_path / "tool-1.0-py3-none-any.whl"
    broken.write_bytes(b"no zip")
    with pytest.raises(StereoError, match="is not a wheel"):
        pypi._read(broken)
