"""Licences: what packages say becomes SPDX's expressions, and nothing that they do not say."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.sbom.licences import (
    MAX_COPYRIGHT,
    MOST_LINES,
    Stated,
    licensing,
    of_copyright,
    of_metadata,
    of_package_json,
)

HEAD = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"


def stated(*synopses: str) -> str | None:
    """What a machine-readable file with these licences states."""
    paragraphs = [f"Files: f{number}\nCopyright: c\nLicense: {one}\n" for number, one in enumerate(synopses)]
    return of_copyright("\n".join([HEAD, *paragraphs]).encode()).expression


@pytest.mark.parametrize(
    ("synopsis", "expression"),
    [
        ("Expat", "MIT"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("GPL3+", "GPL-3.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("LGPL-2", "LGPL-2.0-only"),
        ("AGPL-3+", "AGPL-3.0-or-later"),
        ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("Apache-2", "Apache-2.0"),
        ("CC0", "CC0-1.0"),
        ("isc", "ISC"),
        ("GPL-2 with Linux-syscall-note exception", "GPL-2.0-only WITH Linux-syscall-note"),
        ("GPL-1+ or Artistic", "Artistic-1.0 OR GPL-1.0-or-later"),
        ("Perl", "Artistic-1.0 OR GPL-1.0-or-later"),
        ("GPL-2 or ISC and MIT", "(ISC AND MIT) OR GPL-2.0-only"),
        ("GPL-2 or ISC, and MIT", "(GPL-2.0-only OR ISC) AND MIT"),
        ("ISC, MIT and Zlib", "ISC AND MIT AND Zlib"),
        ("ISC or ISC", "ISC"),
        ("public-domain", "LicenseRef-Debian-public-domain"),
    ],
)
def test_a_name_of_debian_becomes_spdx_s(synopsis: str, expression: str) -> None:
    assert stated(synopsis) == expression


@pytest.mark.parametrize(
    "synopsis", ["GPL", "LGPL", "BSD", "GPL-4+", "GPL-2+ with OpenSSL exception", "MIT/X11", "Apache"]
)
def test_what_spdx_does_not_know_exactly_is_a_reference_and_no_guess(synopsis: str) -> None:
    found = of_copyright(f"{HEAD}\nFiles: *\nCopyright: c\nLicense: {synopsis}\n".encode())
    assert found.expression is not None
    assert found.references == {found.expression: synopsis}
    assert found.expression.startswith("LicenseRef-Debian-")


def test_two_names_never_share_a_reference() -> None:
    assert stated("a~b") != stated("a b") != stated("a-b")


def test_a_package_is_under_all_licences_of_its_files() -> None:
    assert stated("ISC", "Expat", "ISC and Zlib", "GPL-2 or MIT") == "(GPL-2.0-only OR MIT) AND ISC AND MIT AND Zlib"


def test_prose_states_nothing_but_hints() -> None:
    found = of_copyright(b"You may. See /usr/share/common-licenses/GPL-2. And /usr/share/common-licenses/LGPL-2.1,\n")
    assert (found.expression, found.hints) == (None, ("GPL-2", "LGPL-2.1"))


def test_a_copyright_file_that_is_too_large_is_not_read() -> None:
    assert of_copyright(HEAD.encode() + b"#" * MAX_COPYRIGHT).expression is None


def test_a_copyright_file_of_endless_lines_is_not_read() -> None:
    assert of_copyright(f"{HEAD}\nFiles: *\nCopyright: c\nLicense: MIT\n".encode() + b"\n" * MOST_LINES) == Stated()


def test_the_worst_copyright_file_within_the_limits_is_read_in_seconds() -> None:
    worst = HEAD + "".join(f"\nFiles: *\nCopyright: c\nLicense: a{number}\n" for number in range(MOST_LINES // 4 - 1))
    began = time.process_time()
    assert of_copyright(worst.encode()).expression is None
    assert time.process_time() - began < 20


@given(st.text(max_size=300))
def test_whatever_a_synopsis_says_the_expression_is_valid(text: str) -> None:
    expression = stated(text)
    if expression is not None:
        assert licensing().parse(expression) is not None


@given(st.binary(max_size=600))
def test_whatever_a_copyright_file_is_nothing_breaks(data: bytes) -> None:
    of_copyright(data)
    of_copyright(HEAD.encode() + b"\n" + data)


_WORD = st.sampled_from(["GPL-2+", "Expat", "ISC", "odd one", "and", "or", ",", "with", "exception", "(", ")", "Perl"])


@given(st.lists(_WORD, max_size=20))
def test_words_of_the_grammar_in_any_order_give_a_valid_expression(words: list[str]) -> None:
    expression = stated(" ".join(words))
    if expression is not None:
        assert licensing().parse(expression) is not None


@pytest.mark.parametrize(
    ("document", "expression"),
    [
        ({"license": "MIT"}, "MIT"),
        ({"license": "(MIT OR apache-2.0)"}, "MIT OR Apache-2.0"),
        ({"license": {"type": "ISC", "url": "x"}}, "ISC"),
        ({"licenses": [{"type": "MIT"}, {"type": "ISC"}]}, "(ISC) OR (MIT)"),
        ({"licenses": [{"type": "MIT"}, {"type": "what"}]}, None),
        ({"license": "SEE LICENSE IN LICENSE.md"}, None),
        ({"license": "UNLICENSED"}, None),
        ({"license": "MIT AND"}, None),
        ({"license": ""}, None),
        ({"license": 3}, None),
        ({}, None),
        ([], None),
    ],
)
def test_the_licence_of_an_npm_package(document: object, expression: str | None) -> None:
    assert of_package_json(json.dumps(document).encode()).expression == expression


@pytest.mark.parametrize(
    ("fields", "expression"),
    [
        ("License-Expression: MIT or Apache-2.0", "MIT OR Apache-2.0"),
        ("License: BSD-3-Clause", "BSD-3-Clause"),
        ("License: The whole text of some licence", None),
        ("License: BSD\nClassifier: License :: OSI Approved :: MIT License", "MIT"),
        ("Classifier: License :: OSI Approved :: BSD License", None),
        ("Summary: x", None),
    ],
)
def test_the_licence_of_a_wheel(fields: str, expression: str | None) -> None:
    data = f"Metadata-Version: 2.1\nName: x\nVersion: 1\n{fields}\n".encode()
    assert of_metadata(data).expression == expression


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b'{"license": "' + b"(" * 5000 + b'"}', b"\xff", b"9" * 5000])
def test_foreign_metadata_of_any_kind_states_nothing(data: bytes) -> None:
    assert of_package_json(data).expression is None
    assert of_metadata(data).expression is None


@given(st.binary(max_size=300))
def test_whatever_metadata_is_nothing_breaks(data: bytes) -> None:
    of_package_json(data)
    of_metadata(data)


@given(st.text(max_size=200))
def test_whatever_a_licence_field_says_the_expression_is_valid(text: str) -> None:
    found = of_package_json(json.dumps({"license": text}).encode()).expression
    if found is not None:
        assert licensing().parse(found, validate=True) is not None
