"""Envelopes and lines, from friends and from enemies."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_guest import protocol
from stereos_guest.protocol import LineReader, ProtocolError, decode, encode

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.none() | st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_what_is_encoded_is_decoded_again(kind: str, payload: dict[str, object] | None) -> None:
    message = decode(encode(kind, payload)[:-1])
    assert (message.type, message.payload, message.has_payload) == (kind, payload, payload is not None)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_decoding_anything_raises_nothing_but_a_protocol_error(line: bytes) -> None:
    with suppress(ProtocolError):
        decode(line)


@given(st.lists(st.binary(max_size=30)), st.integers(min_value=1, max_value=20))
def test_however_a_stream_is_cut_the_same_lines_come_out(chunks: list[bytes], limit: int) -> None:
    whole = LineReader(limit).feed(b"".join(chunks))
    reader = LineReader(limit)
    assert [line for chunk in chunks for line in reader.feed(chunk)] == whole


@given(st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b" "))))
def test_a_line_is_given_whole_or_told_to_be_too_long(lines: list[bytes]) -> None:
    found = LineReader(10).feed(b"".join(line + b"\n" for line in lines))
    assert found == [line if len(line) < 10 else None for line in lines]


def test_a_line_of_exactly_the_limit_is_accepted() -> None:
    line = b"x" * (protocol.MAX_LINE - 1)
    assert LineReader().feed(line + b"\n") == [line]


def test_a_line_that_cannot_end_in_time_is_told_before_its_newline() -> None:
    assert LineReader().feed(b"x" * protocol.MAX_LINE) == [None]


def test_an_endless_line_is_not_kept() -> None:
    reader = LineReader(1000)
    for _ in range(1000):
        reader.feed(b"x" * 100)
    assert len(reader._held) <= 1000


def test_a_missing_payload_is_told_in_the_words_of_the_original() -> None:
    with pytest.raises(ProtocolError, match=r"^envelope set_config has no payload$"):
        decode(b'{"type":"set_config"}').body()


def test_a_null_payload_counts_as_empty() -> None:
    assert decode(b'{"type":"set_config","payload":null}').body() == {}


@pytest.mark.parametrize("payload", ["[]", '"text"', "1", "true"])
def test_a_payload_that_is_not_an_object_is_refused(payload: str) -> None:
    with pytest.raises(ProtocolError, match="payload of mount is not an object"):
        decode(b'{"type":"mount","payload":' + payload.encode() + b"}").body()


@pytest.mark.parametrize("line", [b"[]", b"1", b"null", b'"ping"', b'{"type":1}', b'{"type":null}', b"\xff\xfe"])
def test_an_envelope_that_is_none_is_malformed(line: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^malformed JSON:"):
        decode(line)


def test_field_names_are_matched_in_any_case_and_the_exact_one_wins() -> None:
    assert decode(b'{"Type":"pong","TYPE":"x","type":"ping"}').type == "ping"
    assert decode(b'{"TYPE":"ping"}').type == "ping"


def test_unknown_fields_are_ignored() -> None:
    assert decode(b'{"type":"ping","id":7}').type == "ping"


def test_an_envelope_without_a_type_has_the_empty_type() -> None:
    assert decode(b"{}").type == ""


def test_what_does_not_fit_a_line_is_not_encoded() -> None:
    with pytest.raises(ProtocolError, match="more than a line may have"):
        encode("set_config", {"content": "x" * protocol.MAX_LINE})


def test_what_json_cannot_say_is_not_encoded() -> None:
    with pytest.raises(ProtocolError, match="cannot encode"):
        encode("health", {"uptime": float("nan")})


def test_an_ack_has_an_error_only_if_it_failed() -> None:
    assert protocol.ack("mount") == b'{"type":"ack","payload":{"reply_to":"mount","ok":true}}\n'
    assert (
        protocol.ack("mount", "no tag")
        == b'{"type":"ack","payload":{"reply_to":"mount","ok":false,"error":"no tag"}}\n'
    )


def test_health_leaves_out_an_empty_list_of_agents() -> None:
    assert protocol.health("ready", 3) == {"state": "ready", "uptime_seconds": 3}


@given(st.text(min_size=1, max_size=300_000))
def test_the_answer_to_an_absurd_type_still_fits_a_line(kind: str) -> None:
    assert len(protocol.unknown_type(kind * 10)) < protocol.MAX_LINE
