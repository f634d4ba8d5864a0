"""Runs in a table: which folders are found, what is said of a dead or damaged one, what differs."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from hypothesis import given
from hypothesis import strategies as st

from adapt.errors import ClusteringError, ConfigError, RunError
from adapt.recipes import load_recipe
from adapt.runs.folder import Run
from adapt.runs.listing import compare_runs, describe_run, flatten, last_figures, list_runs, series
from tests.support.tiny_runs import data, finished, info, row

pytestmark = pytest.mark.usefixtures("thin")


def test_runs_lie_one_or_two_levels_below(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/c/too-deep", "empty"):
        (tmp_path / name).mkdir(parents=True)
        if name != "empty":
            (tmp_path / name / "run.json").write_text("{}")
    assert [line.name for line in list_runs(tmp_path)] == ["a", "b/c"]
    assert [line.name for line in list_runs(tmp_path / "a")] == ["."]
    with pytest.raises(RunError, match="holds no run"):
        list_runs(tmp_path / "empty")
    with pytest.raises(RunError, match="gone cannot be read"):
        list_runs(tmp_path / "gone")


@pytest.mark.parametrize("call", ["iterdir", "is_dir", "exists"])
def test_a_folder_that_cannot_be_read_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """As lost+found, beside runs that can."""
    finished(tmp_path / "run")
    (tmp_path / "lost+found" / "inner").mkdir(parents=True)
    real = getattr(Path, call)

    def refused(path: Path) -> object:
        if "lost+found" in (path.name if call == "iterdir" else path.parent.name):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, call, refused)
    lost, run = list_runs(tmp_path)
    assert (lost.name, lost.state, run.state) == ("lost+found", "unreadable", "finished")
    assert lost.problem == f"{tmp_path / 'lost+found'} cannot be read: Permission denied"


def test_a_run_whose_run_json_leads_nowhere_is_a_line(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (run.path / "run.json").unlink()
    (run.path / "run.json").symlink_to("nowhere")
    (line,) = list_runs(tmp_path)
    assert (line.name, line.state) == ("run", "damaged")
    assert "is a link to nowhere" in line.problem


def test_a_line_says_how_far_a_run_came(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    line = describe_run(run.path, "run")
    assert (line.state, line.method, line.recipe) == ("finished", "mmt", "small")
    assert (line.rounds, line.planned, line.clusters, line.minutes) == (1, 3, (7,), 1.5)


def test_a_run_is_dead_when_it_says_running_and_nobody_writes(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", info())
    assert describe_run(run.path, "run").state == "running"
    run.release()
    assert describe_run(run.path, "run").state == "crashed"
    assert Run.open(run.path).info.state == "running", "looking changes nothing"
    reopened = Run.reopen(run.path)
    reopened.finish(1.0, ClusteringError("1 cluster"))
    line = describe_run(run.path, "run")
    assert (line.state, line.reason) == ("failed", "CLUSTERS_COLLAPSED")


def test_seconds_of_a_dead_run_are_those_of_its_rounds(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", info())
    figures = row(1, seconds_train=100.0, seconds_extract=20.0, clusters=2)
    (run.path / "metrics.jsonl").write_text(json.dumps(figures) + "\n")
    run.release()
    assert describe_run(run.path, "run").minutes == 2.0


@pytest.mark.parametrize("content", ["{\n", "{}\n", "[" * 100_000])
@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl"])
def test_a_damaged_run_is_a_line_that_says_why(tmp_path: Path, file: str, content: str) -> None:
    run = finished(tmp_path / "run")
    (run.path / file).write_text(content + "\n")
    line = describe_run(run.path, "run")
    assert line.state == "damaged"
    assert file in line.problem


def test_compare_shows_what_differs_and_only_that(tmp_path: Path) -> None:
    first = finished(tmp_path / "1")
    changes = ("schedule.rounds=3", "optimizer.lr=1e-4", "thinning.per_track=3")
    recipe = load_recipe("mmt_small", method="mmt", overrides=changes)
    second = finished(
        tmp_path / "2", recipe=recipe, seed=2, data=(data("one"), data("s", "source"))
    )
    found = compare_runs([first.path, second.path])
    assert found.settings == {
        "seed": (1, 2),
        "optimizer.lr": (1e-3, 1e-4),
        "thinning.per_track": (10, 3),
    }
    assert found.data == {"target": "the same", "source": "not in every run"}
    assert found.figures == {"clusters": (7.0, 7.0), "loss": (0.5, 0.5)}
    third = finished(tmp_path / "3", data=(data("two"),))
    assert compare_runs([first.path, third.path]).data == {"target": "different"}
    shutil.copytree(first.path, tmp_path / "4")
    assert compare_runs([first.path, tmp_path / "4"]).settings == {}
    with pytest.raises(ConfigError, match="two or more"):
        compare_runs([first.path])


def test_what_crops_are_read_and_kept_back_by_is_compared(tmp_path: Path) -> None:
    first = finished(tmp_path / "1")
    second = finished(tmp_path / "2", camera_pattern="c[0-9]", hold_back=0.2, data=(data("two"),))
    found = compare_runs([first.path, second.path])
    assert found.data == {"target": "different"}
    assert found.settings == {"camera pattern": (None, "c[0-9]"), "held back": (0.0, 0.2)}


def test_series_are_the_figure_or_its_numbered_kin() -> None:
    row = {"clusters": 3, "clusters_1": 4, "clusters_2": 5, "clusters_x": 6, "cluster": 7}
    assert series(row, "clusters") == {"clusters": 3, "clusters_1": 4, "clusters_2": 5}


def test_last_figures_are_numbers_alone() -> None:
    rows: list[dict[str, Any]] = [
        {"round": 1, "loss": 9},
        {"round": 2, "loss": 1, "labels": "x", "warnings": ["y"]},
    ]
    assert last_figures(rows) == {"loss": 1.0}
    assert last_figures([]) == {}


TREES = st.recursive(
    st.integers(), lambda leaf: st.dictionaries(st.text("ab", min_size=1), leaf), max_leaves=8
)


@pytest.mark.slow
@given(st.dictionaries(st.text("ab", min_size=1), TREES))
def test_flatten_names_each_leaf_by_its_way(tree: dict[str, object]) -> None:
    def walk(node: object, way: tuple[str, ...]) -> list[tuple[str, object]]:
        if not isinstance(node, dict):
            return [(".".join(way), node)]
        return [leaf for key, child in node.items() for leaf in walk(child, (*way, key))]

    assert flatten(tree) == dict(walk(tree, ()))
