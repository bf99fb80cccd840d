"""What the YAML writer writes, a YAML reader reads as the same."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stereo.pipeline.yamltext import Remarked, render

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn", "Co"]), max_size=30)
ODD = st.sampled_from(["yes", "1.0", "null", "- a", "#", "a: b", "~"])
SCALARS = st.one_of(TEXT, st.booleans(), st.integers(-(10**6), 10**6), ODD)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(SCALARS, max_size=4), st.dictionaries(TEXT.filter(bool), inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=60)
@given(st.dictionaries(TEXT.filter(bool), VALUES, min_size=1, max_size=4))
def test_it_reads_as_what_was_written(document: dict[str, Any]) -> None:
    assert YAML(typ="safe").load(render(document)) == document


def test_a_list_of_mappings_several_lines_and_a_remark() -> None:
    document = {"steps": [{"uses": Remarked("a/b@c", "v1"), "with": {"path": "one\ntwo\n"}}, {"run": "x"}], "on": {}}
    text = render(document)
    assert text.splitlines()[:2] == ["steps:", "  - uses: a/b@c  # v1"]
    assert YAML(typ="safe").load(text) == document
