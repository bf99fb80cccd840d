"""mixtape.toml: what a reader refuses, and that writing and reading are each other's inverse."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from stereo.errors import ProblemsError
from stereo.model.manifest import (
    EPOCH_MAX,
    EPOCH_MIN,
    MAX_BYTES,
    MAX_FILE,
    MAX_LINE,
    MAX_LINES,
    SCHEMA,
    Manifest,
    is_release,
    parse_manifest,
    render_manifest,
)

DIGEST = "ab" * 32
MIB = 1 << 20


def content() -> dict[str, Any]:
    """A manifest as plain tables, to be spoilt."""

    def disk(file: str) -> dict[str, Any]:
        return {
            "file": file,
            "sha256": DIGEST,
            "size": 256 * MIB,
            "compressed_file": f"{file}.zst",
            "compressed_sha256": DIGEST,
            "compressed_size": 64 * MIB,
        }

    def plain(file: str) -> dict[str, Any]:
        return {"file": file, "sha256": DIGEST, "size": 1234}

    def partition(number: int, label: str) -> dict[str, Any]:
        return {
            "label": label,
            "type": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            "uuid": f"00000000-0000-4000-8000-{number:012d}",
            "offset": number * 64 * MIB,
            "size": 64 * MIB,
            "sha256": DIGEST,
        }

    return {
        "schema": SCHEMA,
        "name": "opencode-mixtape",
        "version": "2026.11.21.0",
        "arch": "x86_64-linux",
        "dev": False,
        "artifacts": {
            "raw": disk("stereos.img"),
            "qcow2": disk("stereos.qcow2"),
            "kernel": {key: plain(file) for key, file in KERNEL_FILES.items()},
        },
        "sbom": {"cyclonedx": plain("sbom.cdx.json"), "spdx": plain("sbom.spdx.json")},
        "build": {
            "source_revision": "5d89c00-dirty",
            "plan_key": DIGEST,
            "lock_sha256": DIGEST,
            "tools_lock_sha256": DIGEST,
            "epoch": 1_790_000_000,
            "level": 19,
            "tools": {"mkosi": "27.1", "systemd": "257.9-1~deb13u1", "erofs-utils": "1.8.6-1"},
        },
        "image": {
            "kernel_version": "6.12.117+deb13-cloud-amd64",
            "root_hash": DIGEST,
            "disk_uuid": "00000000-0000-4000-8000-000000000000",
            "partition": [partition(1, "esp"), partition(2, "root")],
        },
        "agent": {
            "harness": "opencode",
            "api_keys": ["ANTHROPIC_API_KEY"],
            "packages": [{"name": "@scope/tool", "version": "1.2.3", "source": "npm"}],
        },
    }


KERNEL_FILES = {"bzimage": "bzImage", "initrd": "initrd", "cmdline": "cmdline", "init": "init"}


def text_of(tables: dict[str, Any]) -> bytes:
    return tomlkit.dumps(tables).encode()


def problems_of(data: bytes) -> str:
    with pytest.raises(ProblemsError) as caught:
        parse_manifest(data, "dist/mixtape.toml")
    return str(caught.value)


def spoilt(path: str, value: object) -> bytes:
    """The good manifest with one value replaced, or removed when `value` is `...`. `path` is dotted."""
    tables = content()
    *parents, last = path.split(".")
    place: Any = tables
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return text_of(tables)


def test_a_good_manifest_is_read() -> None:
    manifest = parse_manifest(text_of(content()), "mixtape.toml")
    assert (manifest.name, manifest.version, manifest.arch, manifest.dev) == (
        "opencode-mixtape",
        "2026.11.21.0",
        "x86_64-linux",
        False,
    )
    assert [file for file, _, _ in manifest.files()] == [
        "stereos.img",
        "stereos.img.zst",
        "stereos.qcow2",
        "stereos.qcow2.zst",
        "bzImage",
        "initrd",
        "cmdline",
        "init",
        "sbom.cdx.json",
        "sbom.spdx.json",
    ]


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("name", "../opencode", "name"),
        ("name", "a/b", "name"),
        ("name", "a..b", "name"),
        ("name", "", "name"),
        ("name", "Opencode\n", "name"),
        ("version", "2026/11", "version"),
        ("version", "1..2", "version"),
        ("version", "1\n", "version"),
        ("version", "v" * 65, "version"),
        ("arch", "riscv64-linux", "arch"),
        ("arch", "x86_64", "arch"),
        ("dev", 0, "dev"),
        ("dev", "false", "dev"),
        ("name", ..., "name"),
        ("artifacts", ..., "artifacts"),
        ("artifacts.raw", ..., "artifacts.raw"),
        ("artifacts.raw.file", "../stereos.img", "artifacts.raw.file"),
        ("artifacts.raw.file", "stereos.qcow2", "artifacts.raw.file"),
        ("artifacts.raw.compressed_file", "/etc/passwd", "artifacts.raw.compressed_file"),
        ("artifacts.raw.sha256", DIGEST.upper(), "artifacts.raw.sha256"),
        ("artifacts.raw.sha256", DIGEST + "\n", "artifacts.raw.sha256"),
        ("artifacts.raw.sha256", DIGEST[:-1], "artifacts.raw.sha256"),
        ("artifacts.raw.size", 0, "artifacts.raw.size"),
        ("artifacts.raw.size", -1, "artifacts.raw.size"),
        ("artifacts.raw.size", True, "artifacts.raw.size"),
        ("artifacts.raw.size", 1.0, "artifacts.raw.size"),
        ("artifacts.raw.size", "1", "artifacts.raw.size"),
        ("artifacts.raw.compressed_size", MAX_FILE + 1, "artifacts.raw.compressed_size"),
        ("artifacts.qcow2.size", 2**53 + 1, "artifacts.qcow2.size"),
        ("artifacts.qcow2.md5", "0" * 32, "artifacts.qcow2.md5"),
        ("artifacts.kernel.bzimage.file", "bzimage", "artifacts.kernel.bzimage.file"),
        ("artifacts.kernel.init", ..., "artifacts.kernel.init"),
        ("artifacts.kernel.extra", {}, "artifacts.kernel.extra"),
        ("artifacts.vmdk", {}, "artifacts.vmdk"),
        ("sbom.cyclonedx", ..., "sbom.cyclonedx"),
        ("sbom.spdx.file", "sbom.cdx.json", "sbom.spdx.file"),
        ("sbom.swid", {}, "sbom.swid"),
        ("surplus", 1, "surplus"),
        ("build.epoch", EPOCH_MIN - 1, "build.epoch"),
        ("build.epoch", EPOCH_MAX + 1, "build.epoch"),
        ("build.level", 23, "build.level"),
        ("build.plan_key", "", "build.plan_key"),
        ("build.tools", {f"tool{number}": "1" for number in range(65)}, "build.tools"),
        ("build.tools", {"../tool": "1"}, "build.tools.../tool"),
        ("build.tools.mkosi", "27\u001b[31m", "build.tools.mkosi"),
        ("image.partition", [], "image.partition"),
        ("image.partition.0.offset", 513, "image.partition.0.offset"),
        ("image.partition.0.offset", 0, "image.partition.0.offset"),
        ("image.partition.0.size", 2**62, "image.partition.0.size"),
        ("image.partition.0.uuid", "00000000-0000-4000-8000-00000000000G", "image.partition.0.uuid"),
        ("image.partition.0.label", "a\nb", "image.partition.0.label"),
        ("image.root_hash", "roothash", "image.root_hash"),
        ("agent.api_keys", ["sk-ant-secret"], "agent.api_keys.0"),
        ("agent.packages.0.source", "curl", "agent.packages.0.source"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(path: str, value: object, key: str) -> None:
    assert f"dist/mixtape.toml: {key}: " in problems_of(spoilt(path, value))


def test_all_problems_are_told_at_once() -> None:
    tables = content()
    tables["arch"] = "mips"
    tables["artifacts"]["raw"]["size"] = -1
    del tables["agent"]["harness"]
    shown = problems_of(text_of(tables))
    assert [key for key in ("arch:", "artifacts.raw.size:", "agent.harness: is missing") if key in shown] != []
    assert len(shown.splitlines()) == 3


def test_overlapping_partitions_are_refused() -> None:
    shown = problems_of(spoilt("image.partition.0.size", 64 * MIB + 512))
    assert "partition 'root' begins inside partition 'esp'" in shown


def test_a_partition_beyond_the_disk_is_refused() -> None:
    assert "partition 'root' ends after the disk" in problems_of(spoilt("image.partition.1.size", 128 * MIB + 512))


def test_two_partitions_with_one_uuid_are_refused() -> None:
    assert "one uuid" in problems_of(spoilt("image.partition.1.uuid", "00000000-0000-4000-8000-000000000001"))


def test_more_partitions_than_any_disk_of_ours_are_refused() -> None:
    tables = content()
    tables["image"]["partition"] *= 9
    assert "image.partition: " in problems_of(text_of(tables))


@pytest.mark.parametrize("schema", [SCHEMA + 1, 17])
def test_a_newer_schema_is_a_clean_refusal_before_anything_else(schema: int) -> None:
    shown = problems_of(f"schema = {schema}\n[[artifacts]]\n".encode())
    assert shown.startswith(f"dist/mixtape.toml: schema: {schema}: made by a newer stereo")
    assert len(shown.splitlines()) == 1


def test_an_older_schema_is_a_clean_refusal_too() -> None:
    shown = problems_of(b"schema = 1\n[[artifacts]]\n")
    assert shown.startswith("dist/mixtape.toml: schema: 1: made by an older stereo")
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize("schema", ["true", '"1"', "1.0", "0", "-1", "[]", "0x" + "f" * 4000])
def test_a_schema_that_is_no_number_is_refused(schema: str) -> None:
    assert "not a small positive number" in problems_of(f"schema = {schema}\n".encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b'schema = 2\nname = "a"\nname = "b"\n',
        b"schema = 2\n[artifacts]\n[artifacts]\n",
        b"schema = " + b"9" * 4000,
        b"schema = 2\nx = " + b"[" * 4000,
        b"schema = 2\nx = " + b"[" * 2000 + b"]" * 2000,
        b"schema = 2\n" + b".".join([b"a"] * 2000) + b" = 1\n",
        b"schema = 2\nx = 2026-99-99\n",
        b"schema = 1\n" * 2,
        b"\x00",
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    problems_of(data)


def test_duplicate_keys_are_refused_where_another_parser_might_take_the_last() -> None:
    data = text_of(content()).replace(b"[artifacts.raw]\n", b'[artifacts.raw]\nsha256 = "' + b"cd" * 32 + b'"\n')
    assert "is not TOML" in problems_of(data)


def test_a_huge_file_is_refused_unread() -> None:
    assert "larger than" in problems_of(b"#" * (MAX_BYTES + 1))


@pytest.mark.parametrize("data", [b"#" * (MAX_LINE + 1), b"#\n" * MAX_LINES])
def test_endless_lines_are_refused(data: bytes) -> None:
    assert "lines" in problems_of(data)


def test_the_worst_file_within_the_limits_is_refused_in_seconds() -> None:
    deep = b"[" + b".".join([b"a"] * ((MAX_LINE - 2) // 2)) + b"]\n"
    data = b"schema = 2\n" + deep + b"".join(b"k%d=1\n" % number for number in range(MAX_LINES - 10))
    began = time.process_time()
    problems_of(data)
    assert time.process_time() - began < 10


def test_thousands_of_problems_are_summed_up_and_escaped() -> None:
    data = text_of(content()) + b"[agent2]\n" + b"".join(b'[agent2."\\u001b[2J%d"]\n' % number for number in range(9))
    shown = problems_of(data)
    assert "\x1b" not in shown
    shown = problems_of(text_of(content()) + b"".join(b"[x%d]\n" % number for number in range(5000)))
    assert len(shown.splitlines()) == 51
    assert "and 4950 more problems" in shown


@pytest.mark.parametrize("version", ["2026.11.21.0", "2026.01.02.17"])
def test_calver_is_a_release(version: str) -> None:
    assert is_release(version)


@pytest.mark.parametrize(
    "version", ["dev-5d89c00", "2026.11.21", "2026.1.2.0", "2026.11.21.00", "2026.11.21.0-dirty", "2026.11.21.0\n"]
)
def test_anything_else_is_no_release(version: str) -> None:
    assert not is_release(version)


_digest = st.binary(min_size=32, max_size=32).map(bytes.hex)
_uuid = st.uuids().map(str)
_size = st.integers(min_value=1, max_value=MAX_FILE)


def _matching(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True).filter(lambda text: ".." not in text)


@st.composite
def manifests(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Manifest:
    word = _matching(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,12}")
    tables = content()
    tables["name"] = draw(_matching(r"[a-z0-9][a-z0-9._-]{0,12}"))
    tables["version"] = draw(word)
    tables["arch"] = draw(st.sampled_from(["x86_64-linux", "aarch64-linux"]))
    tables["dev"] = draw(st.booleans())
    for kind in ("raw", "qcow2"):
        table = tables["artifacts"][kind]
        table |= {"sha256": draw(_digest), "compressed_sha256": draw(_digest), "size": draw(_size)}
        table["compressed_size"] = draw(_size)
    for table in (*tables["artifacts"]["kernel"].values(), *tables["sbom"].values()):
        table |= {"sha256": draw(_digest), "size": draw(_size)}
    tables["build"] |= {
        "source_revision": draw(word),
        "plan_key": draw(_digest),
        "epoch": draw(st.integers(min_value=EPOCH_MIN, max_value=EPOCH_MAX)),
        "level": draw(st.integers(min_value=1, max_value=22)),
        "tools": draw(st.dictionaries(word, word, max_size=3)),
    }
    sizes = draw(st.lists(st.integers(min_value=1, max_value=2**20), min_size=1, max_size=16))
    offset, partitions = 512, []
    for size, uuid in zip(sizes, draw(st.sets(_uuid, min_size=len(sizes), max_size=len(sizes))), strict=True):
        label = draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=36))
        partitions.append(
            {
                "label": label,
                "type": draw(_uuid),
                "uuid": uuid,
                "offset": offset,
                "size": size * 512,
                "sha256": draw(_digest),
            }
        )
        offset += size * 512
    tables["image"] |= {"kernel_version": draw(word), "disk_uuid": draw(_uuid), "partition": partitions}
    tables["artifacts"]["raw"]["size"] = max(offset, tables["artifacts"]["raw"]["size"])
    package = st.fixed_dictionaries(
        {
            "name": _matching(r"[@A-Za-z0-9][@A-Za-z0-9/._+~:-]{0,9}"),
            "version": word,
            "source": st.sampled_from(["debian", "npm", "pypi", "url"]),
        }
    )
    tables["agent"] = {
        "harness": draw(word),
        "api_keys": draw(st.lists(_matching(r"[A-Z][A-Z0-9_]{0,9}"), max_size=3)),
        "packages": draw(st.lists(package, max_size=3)),
    }
    return Manifest.model_validate(tables)


@given(manifests())
def test_reading_what_was_written_gives_it_back(manifest: Manifest) -> None:
    text = render_manifest(manifest)
    again = parse_manifest(text.encode(), "mixtape.toml")
    assert again == manifest
    assert render_manifest(again) == text


@given(manifests())
def test_every_toml_reader_sees_the_contract_for_existing_consumers(manifest: Manifest) -> None:
    text = render_manifest(manifest)
    assert "\r" not in text
    assert text.endswith("\n")
    table = tomllib.loads(text)
    assert {"name", "version", "arch", "artifacts"} <= table.keys()
    assert set(table["artifacts"]) == {"raw", "qcow2", "kernel"}
    for kind in ("raw", "qcow2"):
        assert set(table["artifacts"][kind]) == {
            "file",
            "sha256",
            "size",
            "compressed_file",
            "compressed_sha256",
            "compressed_size",
        }
    assert set(table["artifacts"]["kernel"]) == set(KERNEL_FILES)
    for plain in table["artifacts"]["kernel"].values():
        assert set(plain) == {"file", "sha256", "size"}


def test_the_text_does_not_depend_on_the_order_of_tools() -> None:
    tables = content()
    first = render_manifest(Manifest.model_validate(tables))
    tables["build"]["tools"] = dict(reversed(list(tables["build"]["tools"].items())))
    assert render_manifest(Manifest.model_validate(tables)) == first


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_and_nothing_worse(data: bytes) -> None:
    problems_of(data)


@given(st.data())
def test_a_manifest_with_some_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    spoilt_bytes = bytearray(text_of(content()))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(spoilt_bytes) - 1))
        spoilt_bytes[position : position + 1] = data.draw(st.binary(max_size=3))
    try:
        parse_manifest(bytes(spoilt_bytes), "mixtape.toml")
    except ProblemsError:
        return
