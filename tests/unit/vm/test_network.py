"""Who carries a machine's frames: passt word for word, and the refusals of bridges."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stereo.errors import StereoError
from stereo.vm.machine import Bridged, Forward
from stereo.vm.network import mac_address, open_tap, passt_arguments


def test_passt_word_for_word() -> None:
    forwards = [Forward(2222, 22), Forward(5353, 53, "udp"), Forward(8080, 80)]
    assert " ".join(passt_arguments(7, forwards)) == (
        "--foreground --quiet --fd 7 --ipv4-only --address 10.0.2.15 --netmask 24 --gateway 10.0.2.2 "
        "--dns 10.0.2.3 --dns-forward 10.0.2.3 --search none "
        "--no-map-gw --map-host-loopback none --map-guest-addr none "
        "--tcp-ports 127.0.0.1/2222:22,8080:80 --udp-ports 127.0.0.1/5353:53"
    )


def test_without_forwards_nothing_comes_in() -> None:
    arguments = passt_arguments(7, [])
    assert arguments[arguments.index("--tcp-ports") + 1] == "none"
    assert arguments[arguments.index("--udp-ports") + 1] == "none"


@pytest.mark.parametrize("name", ["", "x" * 16, "../lo", "a/b"])
def test_what_is_no_interface_is_refused(name: str) -> None:
    with pytest.raises(StereoError, match="no name of a network interface"):
        open_tap(Bridged(name))


@pytest.mark.parametrize("name", ["lo", "no-such-bridge"])
def test_what_is_no_bridge_is_refused(name: str) -> None:
    with pytest.raises(StereoError, match=f"bridge {name}: there is no such bridge"):
        open_tap(Bridged(name))


def test_who_may_not_join_a_bridge_is_told_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StereoError, match="cannot join it: Operation not permitted") as caught:
        open_tap(Bridged("br0"))
    assert caught.value.hint
    assert "CAP_NET_ADMIN" in caught.value.hint


def test_a_machine_keeps_its_address_on_a_bridge_and_shares_it_with_none() -> None:
    first = mac_address(Path("/a/overlay.qcow2"))
    assert first == mac_address(Path("/a/overlay.qcow2")) != mac_address(Path("/b/overlay.qcow2"))
    assert first.startswith("52:54:00:")
    assert len(first) == 17
