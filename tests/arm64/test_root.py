"""What of this computer's package sources becomes the mirror of the aarch64 userland."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.arm64.root import package_sources, recipe_key

BOOKWORM = """\
Debian http://mirror.invalid/debian/ bookworm main
Debian http://mirror.invalid/debian/ bookworm contrib
Debian http://mirror.invalid/debian/ bookworm-updates main
Debian http://mirror.invalid/security/ bookworm-security main
Another http://other.invalid/ubuntu bookworm main
"""


def test_debian_s_own_sources_of_the_suite_are_taken() -> None:
    assert package_sources(BOOKWORM) == (
        "deb http://mirror.invalid/debian/ bookworm main",
        "deb http://mirror.invalid/debian/ bookworm-updates main",
        "deb http://mirror.invalid/security/ bookworm-security main",
    )


def test_the_mirror_of_another_release_has_this_one_too() -> None:
    trixie = BOOKWORM.replace("bookworm", "trixie")
    assert package_sources(trixie) == ("deb http://mirror.invalid/debian/ bookworm main",)


def test_a_computer_without_debian_s_sources_has_none() -> None:
    assert package_sources("") == ()
    assert package_sources("Ubuntu http://mirror.invalid/ubuntu noble main\n") == ()


@given(st.text())
def test_whatever_apt_says(text: str) -> None:
    assert all(line.startswith("deb ") for line in package_sources(text))


def test_the_recipe_names_its_tree() -> None:
    assert recipe_key() == recipe_key()
    assert len(recipe_key()) == 16
