"""What a wheel and an sdist of this tree hold. `make release` installs and tries them besides."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.release import (
    PACKAGES,
    ReleaseError,
    build,
    check_files,
    files_of_sdist,
    files_of_wheel,
    licenses_of_wheel,
)
from tools.source_tree import ROOT, source_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel and an sdist."""
    return build(tmp_path_factory.mktemp("release"), "--no-isolation")


def test_the_wheel_has_each_file_of_the_packages_and_no_other(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    found = files_of_wheel(wheel)
    assert found == source_files(ROOT, *PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= found
    for needed in ("*.toml", "papers/*.toml"):
        recipes = {
            path.relative_to(ROOT).as_posix() for path in ROOT.glob(f"adapt/recipes/{needed}")
        }
        assert recipes
        assert recipes <= found
    assert "adapt/report/page.html.j2" in found


def test_the_license_is_in_both(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    assert licenses_of_wheel(wheel) == [(ROOT / "LICENSE").read_bytes()]
    assert "LICENSE" in files_of_sdist(sdist)


def test_the_sdist_is_the_whole_tree_with_its_tests(built: tuple[Path, Path]) -> None:
    _, sdist = built
    found = files_of_sdist(sdist)
    assert found == source_files()
    assert "tests/tools/test_release.py" in found


def test_a_file_that_is_missing_or_too_much_is_named() -> None:
    with pytest.raises(ReleaseError, match=r"lacks \['a.py'\] and has \['c.py'\] too much"):
        check_files("the wheel", {"b.py", "c.py"}, {"a.py", "b.py"})
    check_files("the wheel", {"a.py"}, {"a.py"})
