"""Which index a version tag shall name: order, refusals, and indexes of any origin."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.distribution.merge import TakenError, is_older, merged_index, version_of
from stereo.errors import StereoError
from stereo.registry import media
from stereo.registry.documents import Descriptor, image_index, index_entry
from stereo.registry.parse import parse_index
from stereo.registry.strict import canonical

NAME, VERSION = "base", "2026.01.02.0"
ENTRIES = [
    index_entry(f"{disk}{arch}".encode(), disk, arch)
    for arch in ("x86_64-linux", "aarch64-linux")
    for disk in ("raw", "qcow2")
]
AMD, ARM = ENTRIES[:2], ENTRIES[2:]


def test_the_order_of_publishing_does_not_matter() -> None:
    wanted = image_index(NAME, VERSION, ENTRIES)
    for order in permutations(ENTRIES):
        index: bytes | None = None
        for entry in order:
            index = merged_index(NAME, VERSION, [entry], index)
        assert index == wanted
    placed = [
        (one.platform and one.platform.architecture, one.annotations[media.FORMAT])
        for one in parse_index(wanted).entries
    ]
    assert placed == [("amd64", "raw"), ("amd64", "qcow2"), ("arm64", "raw"), ("arm64", "qcow2")]


def test_what_is_there_already_stays_the_same() -> None:
    index = merged_index(NAME, VERSION, AMD, None)
    assert merged_index(NAME, VERSION, AMD, index) == index


def test_other_bytes_in_one_format_are_enough_to_refuse() -> None:
    index = merged_index(NAME, VERSION, ENTRIES, None)
    other = index_entry(b"other", "qcow2", "aarch64-linux")
    with pytest.raises(TakenError, match="other bytes for arm64: qcow2"):
        merged_index(NAME, VERSION, [ARM[0], other], index)


@pytest.mark.parametrize(
    "present",
    [
        image_index("other", VERSION, AMD),
        image_index(NAME, "2026.01.02.1", AMD),
        canonical({"schemaVersion": 2, "manifests": []}),
        canonical(
            {
                "schemaVersion": 2,
                "annotations": {media.TITLE: NAME, media.VERSION: VERSION},
                "manifests": [Descriptor(media.IMAGE_MANIFEST, "sha256:" + "0" * 64, 1).as_json()],
            }
        ),
        b"{}",
        b"",
    ],
    ids=["other-name", "other-version", "nobodys", "no-platform", "no-index", "nothing"],
)
def test_what_is_not_ours_is_never_replaced(present: bytes) -> None:
    with pytest.raises(TakenError):
        merged_index(NAME, VERSION, AMD, present)


@given(
    st.binary(max_size=400)
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda x: (
            st.lists(x) | st.dictionaries(st.sampled_from(["manifests", "annotations", "schemaVersion"]) | st.text(), x)
        ),
    ).map(canonical)
)
def test_any_bytes_under_the_tag_are_merged_or_refused(present: bytes) -> None:
    assert version_of(present) is None
    with pytest.raises(StereoError):
        merged_index(NAME, VERSION, AMD, present)


def test_versions_are_compared_as_numbers() -> None:
    assert is_older("2026.01.02.9", "2026.01.02.10")
    assert not is_older("2026.01.02.10", "2026.01.02.10")
    assert version_of(image_index(NAME, VERSION, AMD)) == VERSION
    assert version_of(image_index(NAME, "dev-abc", AMD)) is None
