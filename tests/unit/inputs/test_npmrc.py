"""npm's configuration: which registry, and which credentials go where."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from stereo.errors import StereoError, UsageError
from stereo.inputs.npmrc import NpmConfig, of_host

REGISTRY = "https://registry.invalid/npm/"


def configured(tmp_path: Path, text: str, **env: str) -> NpmConfig:
    (tmp_path / ".npmrc").write_text(text)
    return of_host({"HOME": str(tmp_path), **env})


def test_the_users_file_names_the_registry(tmp_path: Path) -> None:
    assert configured(tmp_path, "; comment\nregistry = https://registry.invalid/npm\n").registry == REGISTRY


def test_the_environment_stands_above_the_file_and_an_option_above_both(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "npm_config_registry": "https://env.invalid"}
    (tmp_path / ".npmrc").write_text(f"registry={REGISTRY}\n")
    assert of_host(env).registry == "https://env.invalid/"
    assert of_host(env, "https://option.invalid").registry == "https://option.invalid/"


def test_a_scope_may_have_its_own_registry(tmp_path: Path) -> None:
    config = configured(tmp_path, f"registry={REGISTRY}\n@mine:registry=https://mine.invalid/\n")
    assert config.tarball_url("@mine/tool", "1.0.0") == "https://mine.invalid/@mine/tool/-/tool-1.0.0.tgz"
    assert config.tarball_url("@other/tool", "1.0.0") == f"{REGISTRY}@other/tool/-/tool-1.0.0.tgz"
    assert config.tarball_url("tool", "1.0.0-rc.1") == f"{REGISTRY}tool/-/tool-1.0.0-rc.1.tgz"


def test_metadata_of_a_scoped_package_has_its_slash_escaped() -> None:
    assert NpmConfig(REGISTRY).metadata_url("@a/b") == f"{REGISTRY}@a%2Fb"


def test_a_token_goes_to_its_registry_only(tmp_path: Path) -> None:
    config = configured(tmp_path, f"registry={REGISTRY}\n//registry.invalid/npm/:_authToken=${{TOKEN}}\n", TOKEN="t0p")
    assert config.headers_for(f"{REGISTRY}x/-/x-1.0.0.tgz") == {"Authorization": "Bearer t0p"}
    assert config.headers_for("https://registry.invalid/other") == {}
    assert config.headers_for("https://registry.invalid.evil.invalid/npm/x") == {}


def test_a_password_is_sent_as_basic_authorization(tmp_path: Path) -> None:
    password = base64.b64encode(b"s3cret").decode()
    text = f"registry={REGISTRY}\n//registry.invalid/npm/:username=me\n//registry.invalid/npm/:_password={password}\n"
    expected = "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert configured(tmp_path, text).headers_for(f"{REGISTRY}x") == {"Authorization": expected}


def test_credentials_are_in_no_text_form(tmp_path: Path) -> None:
    config = configured(tmp_path, f"registry={REGISTRY}\n//registry.invalid/npm/:_authToken=t0p\n")
    assert "t0p" not in f"{config!r} {config}"


def test_a_registry_that_is_no_address_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an http"):
        configured(tmp_path, "registry=ftp://x.invalid\n")


def test_without_a_registry_the_remedy_is_named() -> None:
    with pytest.raises(StereoError, match="NPM_CONFIG_REGISTRY"):
        NpmConfig().registry_of("x")


def test_an_absurdly_large_file_is_not_read(tmp_path: Path) -> None:
    text = "registry=https://big.invalid/\n" + "#" * (1 << 21)
    assert configured(tmp_path, text, npm_config_registry=REGISTRY).registry == REGISTRY
