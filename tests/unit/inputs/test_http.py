"""The client: redirects, credentials, proxies and being stopped."""

from __future__ import annotations

import threading
import time

import pytest

from stereo.inputs.http import Http, HttpError, chunks
from unit.inputs import loopback
from unit.inputs.loopback import Mirror


def test_a_redirect_is_followed(mirror: Mirror, other: Mirror) -> None:
    other.files["/there"] = b"content"
    mirror.behaviours["/here"] = [loopback.redirect(other.url + "there")]
    with Http() as http:
        assert http.text(mirror.url + "here") == b"content"


def test_a_relative_redirect_is_followed(mirror: Mirror) -> None:
    mirror.files["/a/there"] = b"content"
    mirror.behaviours["/a/here"] = [loopback.redirect("there")]
    with Http() as http:
        assert http.text(mirror.url + "a/here") == b"content"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[bad/", "data:,x"])
def test_a_redirect_to_anything_but_http_is_refused(mirror: Mirror, target: str) -> None:
    mirror.behaviours["/here"] = [loopback.redirect(target)]
    with Http() as http, pytest.raises(HttpError, match="not http"):
        http.text(mirror.url + "here")


def test_redirects_do_not_go_on_forever(mirror: Mirror) -> None:
    mirror.behaviours["/here"] = [loopback.redirect("/here")] * 100
    with Http() as http, pytest.raises(HttpError, match="redirects more than"):
        http.text(mirror.url + "here")


def test_credentials_do_not_follow_a_redirect_to_another_host(mirror: Mirror, other: Mirror) -> None:
    other.files["/there"] = b"content"
    mirror.behaviours["/here"] = [loopback.redirect(other.url + "there")]
    with Http() as http:
        http.text(mirror.url + "here", headers={"Authorization": "Bearer token"})
    assert mirror.requests[0].headers["authorization"] == "Bearer token"
    assert "authorization" not in other.requests[0].headers


def test_credentials_follow_a_redirect_on_the_same_host(mirror: Mirror) -> None:
    mirror.files["/there"] = b"content"
    mirror.behaviours["/here"] = [loopback.redirect("/there")]
    with Http() as http:
        http.text(mirror.url + "here", headers={"Authorization": "Bearer token"})
    assert mirror.requests[1].headers["authorization"] == "Bearer token"


def test_a_body_beyond_its_limit_is_refused(mirror: Mirror) -> None:
    mirror.files["/here"] = b"x"
    mirror.behaviours["/here"] = [loopback.endless]
    with Http() as http, pytest.raises(HttpError, match="more than 100000 bytes"):
        http.text(mirror.url + "here", limit=100_000)


def test_no_compression_is_asked_for(mirror: Mirror) -> None:
    mirror.files["/here"] = b"content"
    with Http() as http:
        http.text(mirror.url + "here")
    assert mirror.requests[0].headers["accept-encoding"] == "identity"


def test_the_proxy_of_the_environment_is_used(mirror: Mirror, other: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", mirror.url)
    mirror.files["http://somewhere.invalid/x"] = b"by proxy"
    with Http() as http:
        assert http.text("http://somewhere.invalid/x") == b"by proxy"


def test_no_proxy_is_respected(mirror: Mirror, other: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", mirror.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    other.files["/x"] = b"directly"
    with Http() as http:
        assert http.text(other.url + "x") == b"directly"
    assert mirror.requests == []


def test_a_request_may_name_its_own_proxy_or_none(
    mirror: Mirror, other: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    other.files["/x"] = b"directly"
    mirror.files["http://somewhere.invalid/x"] = b"by proxy"
    with Http() as http:
        with http.request(other.url + "x", proxies={"http": "DIRECT"}) as response:
            assert b"".join(chunks(response)) == b"directly"
        with http.request("http://somewhere.invalid/x", proxies={"http": mirror.url}) as response:
            assert b"".join(chunks(response)) == b"by proxy"


def test_credentials_of_a_proxy_are_sent_to_it(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", mirror.url.replace("//", "//me:pw@"))
    mirror.files["http://somewhere.invalid/x"] = b"by proxy"
    with Http() as http:
        http.text("http://somewhere.invalid/x")
    assert mirror.requests[0].headers["proxy-authorization"].startswith("Basic ")


def test_stop_cuts_off_a_silent_server(mirror: Mirror) -> None:
    mirror.files["/here"] = b"x" * 1000
    mirror.behaviours["/here"] = [loopback.stalls(10)]
    with Http() as http:
        threading.Timer(0.3, http.stop).start()
        began = time.monotonic()
        with pytest.raises(HttpError):
            http.text(mirror.url + "here")
        assert time.monotonic() - began < 30
        with pytest.raises(HttpError, match="interrupted"):
            http.text(mirror.url + "here")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "http:///x", "x", ""])
def test_only_http_addresses_are_asked(url: str) -> None:
    with Http() as http, pytest.raises(HttpError, match="not an http"):
        http.text(url)


def test_a_certificate_that_nobody_vouches_for_is_refused(mirror: Mirror) -> None:
    mirror.files["/here"] = b"content"
    with Http() as http, pytest.raises(HttpError):
        http.text(mirror.url.replace("http:", "https:") + "here")


def test_connections_are_used_again_even_after_an_error(mirror: Mirror) -> None:
    mirror.files["/here"] = b"content"
    with Http() as http:
        for _ in range(5):
            assert http.text(mirror.url + "here") == b"content"
            with pytest.raises(HttpError, match="404"):
                http.text(mirror.url + "nowhere")
            with http.request(mirror.url + "here", method="HEAD"):
                pass
    assert len({request.client for request in mirror.requests}) == 1
