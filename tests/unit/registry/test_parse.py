"""OCI documents from strangers: each lie is refused, and whatever the bytes are, nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.registry import media
from stereo.registry.documents import documents_of
from stereo.registry.errors import Malformed
from stereo.registry.parse import MAX_DOCUMENT, media_type_of, parse_artifact, parse_index, parse_manifest
from unit.registry.support import sample_with_digest

DOCUMENTS = documents_of(*sample_with_digest())
GOOD = json.loads(DOCUMENTS.manifests["raw"])
PARSERS: list[Callable[[bytes], object]] = [
    parse_index,
    parse_artifact,
    parse_manifest,
    lambda data: media_type_of(data, "x"),
]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*GOOD, "manifests", "x"]), inner),
    max_leaves=12,
)


def layer(table: dict[str, Any], number: int = 0) -> Any:
    return table["layers"][number]


def refusal(parse: Callable[[bytes], object], data: bytes) -> str:
    """What is said against `data`; nothing if it is taken."""
    try:
        parse(data)
    except Malformed as error:
        return str(error)
    return ""


def titled(title: object) -> Callable[[dict[str, Any]], object]:
    return lambda table: layer(table)["annotations"].update({media.TITLE: title})


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "climbing title": (titled("../../stereos.img.zst"), "the title of"),
    "absolute title": (titled("/etc/passwd"), "the title of"),
    "another known title": (titled("initrd"), "the title of"),
    "title with an escape": (titled("\x1b[2Jstereos.img.zst"), "the title of"),
    "no title": (lambda table: layer(table).pop("annotations"), "is none"),
    "title that is no text": (titled(5), "not a text"),
    "half a character": (titled("\ud800"), "not a text"),
    "two disks": (lambda table: table["layers"].append(layer(table)), "2 disk layers"),
    "no disk": (lambda table: table["layers"].pop(0), "0 disk layers"),
    "no kernel": (lambda table: table["layers"].pop(1), "0 layers of type"),
    "two kernels": (lambda table: table["layers"].append(layer(table, 1)), "2 layers of type"),
    "stranger with a known title": (
        lambda table: table["layers"].append({**layer(table), "mediaType": "text/plain"}),
        "a second layer claims to be stereos.img.zst",
    ),
    "no bytes": (lambda table: layer(table).update(size=0), "cannot have 0 bytes"),
    "negative size": (lambda table: layer(table).update(size=-1), "no possible size"),
    "size true": (lambda table: layer(table).update(size=True), "no possible size"),
    "fractional size": (lambda table: layer(table).update(size=1.5), "no possible size"),
    "size of a galaxy": (lambda table: layer(table).update(size=1 << 60), "no possible size"),
    "large command line": (lambda table: layer(table, 3).update(size=1 << 20), "cannot have"),
    "large mixtape.toml": (lambda table: layer(table, 5).update(size=2 << 20), "cannot have"),
    "other digest": (lambda table: layer(table).update(digest="md5:" + "0" * 32), "no digest"),
    "capital digest": (lambda table: layer(table).update(digest="sha256:" + "A" * 64), "no digest"),
    "digest with a newline": (lambda table: layer(table).update(digest="sha256:" + "a" * 64 + "\n"), "no digest"),
    "no media type": (lambda table: layer(table).pop("mediaType"), "no mediaType"),
    "odd media type": (lambda table: layer(table).update(mediaType="a\nb/c"), "no media type"),
    "config that is none": (lambda table: table.update(config=[]), "is not an object"),
    "layers that are none": (lambda table: table.update(layers={}), "no list of layers"),
    "too many layers": (lambda table: table.update(layers=[layer(table)] * 65), "more than 64"),
    "too many annotations": (lambda table: table.update(annotations={str(n): "" for n in range(65)}), "more than 64"),
    "old schema": (lambda table: table.update(schemaVersion=1), "schemaVersion"),
    "schema true": (lambda table: table.update(schemaVersion=True), "schemaVersion"),
    "an index": (lambda table: table.update(mediaType=media.IMAGE_INDEX), "not a application/vnd.oci.image.manifest"),
    "subject that is none": (lambda table: table.update(subject=None), "is not an object"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_manifest_with_a_fault_is_refused_in_its_own_words(name: str) -> None:
    edit, said = FAULTS[name]
    table = json.loads(json.dumps(GOOD))
    edit(table)
    with pytest.raises(Malformed) as caught:
        parse_manifest(json.dumps(table).encode())
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_layers_of_others_may_follow_ours() -> None:
    table = json.loads(json.dumps(GOOD))
    table["layers"].append({**layer(table), "mediaType": "text/plain", "annotations": {media.TITLE: "README"}})
    assert list(parse_manifest(json.dumps(table).encode()).layers) == [
        *("stereos.img.zst", "bzImage", "initrd", "cmdline", "init", "mixtape.toml")
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b" " * (MAX_DOCUMENT + 1), "larger than"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "nested too deep"),
        (b'{"a":1,"a":2}', "stands twice"),
        (b'{"a":NaN}', "no number"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"", "not JSON"),
        (b"null", "not an object"),
    ],
)
def test_what_is_no_sound_json_object_is_refused(data: bytes, said: str) -> None:
    for parse in PARSERS:
        with pytest.raises(Malformed) as caught:
            parse(data)
        assert said in str(caught.value)


@pytest.mark.timeout(20)
def test_many_keys_take_no_time() -> None:
    keys = ",".join(f'"{number}":0' for number in range(300_000))
    with pytest.raises(Malformed):
        parse_index(f'{{{keys},"7":1}}'.encode())


def test_a_platform_must_be_plausible() -> None:
    table = json.loads(DOCUMENTS.index)
    table["manifests"][0]["platform"] = {"os": "li\nnux", "architecture": "amd64"}
    with pytest.raises(Malformed, match="platform"):
        parse_index(json.dumps(table).encode())


@given(_json)
def test_any_json_is_read_or_refused(value: object) -> None:
    data = json.dumps(value).encode()
    assert all(refusal(parse, data).isprintable() for parse in PARSERS)


@given(st.integers(0, len(DOCUMENTS.index) - 1), st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(at: int, byte: int) -> None:
    for document in (DOCUMENTS.index, DOCUMENTS.manifests["raw"]):
        data = document[:at] + bytes([byte]) + document[at + 1 :]
        assert all(refusal(parse, data).isprintable() for parse in PARSERS)


def test_documents_of_the_older_specification_tell_what_they_are() -> None:
    assert media_type_of(b'{"manifests":[]}', "x") == media.IMAGE_INDEX
    assert media_type_of(b'{"layers":[]}', "x") == media.IMAGE_MANIFEST
    old = b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:%s","size":1},"layers":[]}' % (b"0" * 64)
    assert parse_artifact(old).artifact_type == "a/b"
