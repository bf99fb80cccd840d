"""What can be released, read from the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereo.errors import UsageError
from stereo.paths import Checkout
from stereo.pipeline.targets import Target, all_targets, chosen_targets


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Two mixtapes: one locked for both architectures, one for one; and a lock of none."""
    for folder, names in {
        "mixtapes": ["base.toml", "coder.toml", "mixtape.schema.json"],
        "manifests": [
            *("tools-x86_64.lock", "tools-aarch64.lock", "base-x86_64.lock", "base-aarch64.lock"),
            *("coder-x86_64.lock", "base-dev-x86_64.lock"),
        ],
    }.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    return Checkout(tmp_path)


def test_every_mixtape_for_every_architecture_that_it_is_locked_for_and_no_dev_profile(checkout: Checkout) -> None:
    expected = (Target("base", "aarch64"), Target("base", "x86_64"), Target("coder", "x86_64"))
    assert all_targets(checkout) == expected


def test_one_machines_tools_make_images_of_every_architecture(checkout: Checkout) -> None:
    (checkout.manifests / "tools-aarch64.lock").unlink()
    assert {target.arch for target in all_targets(checkout)} == {"x86_64", "aarch64"}


def test_some_are_chosen_by_name_and_architecture(checkout: Checkout) -> None:
    assert chosen_targets(checkout, ["base"], ["x86_64"]) == (Target("base", "x86_64"),)
    assert chosen_targets(checkout, [], ["aarch64"]) == (Target("base", "aarch64"),)


@pytest.mark.parametrize(
    ("names", "archs", "said"),
    [(["bse"], [], "no mixtape 'bse'"), (["base", "coder"], ["aarch64"], "coder is not locked for aarch64")],
)
def test_what_is_not_there_is_refused(checkout: Checkout, names: list[str], archs: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen_targets(checkout, names, archs)


def test_the_checkout_itself_can_release_all_of_its_mixtapes() -> None:
    own = Checkout.containing_this_package()
    assert {target.mixtape for target in all_targets(own)} == {path.stem for path in own.mixtapes.glob("*.toml")}
