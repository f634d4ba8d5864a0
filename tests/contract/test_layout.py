"""tests/ mirrors the code path for path, so that the tests of a module are found by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("adapt", "cli", "models", "service")
UNMIRRORED = {
    "benchmarks": "parts of benchmarks, by names of their own",
    "contract": "what documents and code promise each other",
    "e2e": "servers and commands as processes",
    "faults": "the service under attack",
    "support": "what tests share",
    "tools": "the checks of `make`",
}
OF_SEVERAL_MODULES = {
    "adapt/clustering/graph/test_identical_labels.py": "labels from sparse and dense distances",
    "adapt/data/catalog/test_labelled_sets.py": "all readers of labelled sets",
    "adapt/recipes/test_constants.py": "recipes against the papers",
    "adapt/recipes/test_recipes.py": "the package itself",
    "adapt/synthetic/test_synthetic.py": "the package itself",
    "adapt/synthetic/test_synthetic_difficulty.py": "the package itself",
    "adapt/workflows/test_collapse.py": "runs that guards stop",
    "adapt/workflows/test_every_method.py": "all methods",
    "adapt/workflows/test_fast_path.py": "runs in bfloat16 and compiled",
    "adapt/workflows/test_no_labels.py": "runs on sites without identities",
    "adapt/workflows/test_shared_runs.py": "runs of several processes",
    "cli/test_resuming.py": "adapt --resume after signals",
    "cli/test_several_processes.py": "commands under torchrun",
    "models/backbones/test_reid_checkpoints.py": "published checkpoints",
}
"""What a file tests that has no module of its name."""
TESTED_ELSEWHERE = {
    "adapt/clustering/graph/test_neighbors.py": ("adapt/clustering/graph/device.py",),
    "adapt/data/catalog/test_labelled_sets.py": ("adapt/data/catalog/msmt17.py",),
    "adapt/runs/test_checkpoints.py": ("adapt/training/state.py",),
    "adapt/runs/test_folder.py": ("adapt/runs/info.py",),
    "adapt/synthetic/test_synthetic.py": tuple(
        f"adapt/synthetic/{name}.py"
        for name in ["camera", "person", "scene", "site", "stamp", "styles", "textures", "wardrobe"]
    ),
    "adapt/training/test_loop.py": ("adapt/methods/base.py", "adapt/training/batches.py"),
    "contract/test_training_docs.py": ("adapt/errors.py",),
    "cli/test_demo.py": ("cli/demo_report.py", "cli/local_server.py"),
    "cli/test_gating.py": ("adapt/workflows/gate.py",),
    "e2e/test_commands.py": ("cli/enrolling.py", "cli/searching.py", "cli/sites.py"),
    "e2e/test_lifecycle.py": ("cli/serving.py",),
    "service/gallery/test_gallery.py": ("service/gallery/search.py",),
    "service/rollover/test_rollover.py": ("service/rollover/reembed.py",),
    "service/rpc/test_gallery_servicer.py": (
        "service/gallery/site_models.py",
        "service/rpc/calls.py",
    ),
    "service/store/test_store.py": tuple(
        f"service/store/{name}.py"
        for name in ["model_history", "records", "sqlite", "statements", "tables", "times"]
    ),
}
"""Where a module without a test file of its name is tested: a part that is only used with others,
or a command that needs a server."""


def mirrored(package: str) -> list[tuple[Path, Path]]:
    """Each test file of a package with the module or package of its name."""
    pairs = []
    for path in sorted((ROOT / "tests" / package).rglob("test_*.py")):
        below = path.relative_to(ROOT / "tests").with_name(path.stem.removeprefix("test_"))
        pairs.append((path.relative_to(ROOT / "tests"), below))
    return pairs


@pytest.mark.parametrize("package", PACKAGES)
def test_each_test_file_has_the_name_of_a_module(package: str) -> None:
    pairs = mirrored(package)
    assert pairs
    without = {
        str(test)
        for test, module in pairs
        if not (ROOT / module).with_suffix(".py").exists() and not (ROOT / module).is_dir()
    }
    assert without == {name for name in OF_SEVERAL_MODULES if name.startswith(f"{package}/")}


@pytest.mark.parametrize("package", PACKAGES)
def test_each_module_has_a_test_file_of_its_name_or_a_known_one(package: str) -> None:
    without = {
        str(module)
        for path in (ROOT / package).rglob("*.py")
        if not path.name.startswith("__") and "pb" not in path.parts
        for module in [path.relative_to(ROOT)]
        if not (ROOT / "tests" / module.with_name(f"test_{module.name}")).exists()
    }
    known = [module for modules in TESTED_ELSEWHERE.values() for module in modules]
    assert sorted(without) == sorted(each for each in known if each.startswith(f"{package}/"))


def test_the_files_that_test_modules_of_other_names_exist() -> None:
    assert [name for name in TESTED_ELSEWHERE if not (ROOT / "tests" / name).exists()] == []


def test_every_folder_of_tests_is_a_mirror_or_known() -> None:
    folders = {
        path.name
        for path in (ROOT / "tests").iterdir()
        if path.is_dir() and any(path.glob("**/*.py"))
    }
    assert folders == {*PACKAGES, *UNMIRRORED}


def test_only_faults_has_long_tests() -> None:
    """Nothing else than `make faults` runs them."""
    mark = "mark." + "long"
    found = {
        path.relative_to(ROOT / "tests").parts[0]
        for path in (ROOT / "tests").rglob("test_*.py")
        if mark in path.read_text()
    }
    assert found <= {"faults"}
