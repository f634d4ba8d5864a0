"""tests/ mirrors the code path for path, so that the tests of a module are found by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("adapt", "cli", "models", "service")
OF_SEVERAL_MODULES = {
    # file below tests/ without `test_` and `.py`: what it tests together
}


def mirrored(room: str) -> list[tuple[Path, Path]]:
    """Each test file of a room with the module or package of its name."""
    pairs = []
    for path in sorted((ROOT / "tests" / room).rglob("test_*.py")):
        below = path.relative_to(ROOT / "tests").with_name(path.stem.removeprefix("test_"))
        pairs.append((path.relative_to(ROOT / "tests"), below))
    return pairs


@pytest.mark.parametrize("room", ROOMS)
def test_each_test_file_has_the_name_of_a_module(room: str) -> None:
    pairs = mirrored(room)
    assert pairs
    strange = [
        str(test)
        for test, module in pairs
        if not (ROOT / module).with_suffix(".py").exists() and not (ROOT / module).is_dir()
    ]
    print(strange)
    assert not [name for name in strange if name not in OF_SEVERAL_MODULES]
