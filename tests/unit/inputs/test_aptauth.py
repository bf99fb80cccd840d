"""Logins of apt go to the machines that they are for, and nowhere else."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from stereo.inputs.aptauth import AptLogin, headers_for, of_host


def basic(pair: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def logins(tmp_path: Path, text: str) -> tuple[AptLogin, ...]:
    (tmp_path / "auth.conf").write_text(text)
    return of_host(tmp_path)


def test_entries_may_be_on_one_line_or_on_several(tmp_path: Path) -> None:
    found = logins(
        tmp_path,
        "machine a.invalid login me password pw\n# machine c.invalid\nmachine b.invalid\nlogin x\npassword y\n",
    )
    assert headers_for("https://a.invalid/debian/x", found) == basic("me:pw")
    assert headers_for("https://b.invalid/", found) == basic("x:y")


def test_files_of_the_folder_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "auth.conf.d").mkdir()
    (tmp_path / "auth.conf.d/10.conf").write_text("machine a.invalid login me password pw")
    (tmp_path / "auth.conf.d/20.bak").write_text("machine b.invalid login me password pw")
    assert [login.place for login in of_host(tmp_path)] == ["https://a.invalid"]


@pytest.mark.parametrize(
    "url",
    ["http://a.invalid/", "https://a.invalid.evil.invalid/", "https://a.invalid:8080/", "https://b.invalid/a.invalid"],
)
def test_a_login_goes_to_no_other_machine_and_not_in_the_clear(tmp_path: Path, url: str) -> None:
    assert headers_for(url, logins(tmp_path, "machine a.invalid login me password pw")) == {}


def test_an_entry_may_be_for_a_port_a_path_and_http(tmp_path: Path) -> None:
    found = logins(tmp_path, "machine http://a.invalid:8080/deb/ login me password pw")
    assert headers_for("http://a.invalid:8080/deb/pool/x", found) == basic("me:pw")
    assert headers_for("http://a.invalid:8080/other", found) == {}


@pytest.mark.parametrize("text", ["", "machine", "machine a.invalid", "machine a.invalid login", "login x password y"])
def test_a_broken_entry_is_none(tmp_path: Path, text: str) -> None:
    found = logins(tmp_path, text)
    assert headers_for("https://a.invalid/", found) == {}


def test_no_login_is_in_a_text_form(tmp_path: Path) -> None:
    found = logins(tmp_path, "machine a.invalid login me password s3cret")
    assert "bWU6czNjcmV0" not in f"{found!r}"
