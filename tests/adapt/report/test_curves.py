"""Every figure of a run is drawn, in one chart, under a name for people."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.report.curves import PLANNED, label_charts, round_charts

ROW = {
    "round": 1,
    "labels": "k-means K=3",
    "warnings": [],
    "clusters": 3.0,
    "outlier_share": 0.1,
    "cluster_size_min": 2.0,
    "cluster_size_median": 3.0,
    "cluster_size_max": 4.0,
    "cross_camera_share": 0.5,
    "agreement": 0.9,
    "changed_share": 0.1,
    "loss": 2.0,
    "loss_id": 1.0,
    "loss_tri": 1.0,
    "val_mAP": 0.5,
    "val_queries": 12.0,
    "val_queries_without_match": 0.0,
    "val_cmc1": 0.6,
    "val_cmc5": 0.7,
    "val_cmc10": 0.8,
    "val_ari": 0.4,
    "val_pair_f": 0.5,
    "radius": 0.4,
    "active_1": 0.3,
    "active_2": 0.2,
    "memory_bytes": 2.5e9,
    "lr": 1e-3,
    "seconds_train": 3.0,
    "accuracy_1": 0.8,
    "accuracy_2": 0.7,
    "odd_thing": 5,
}


def titles(*rows: dict[str, object]) -> list[str]:
    return [chart.title for chart in round_charts(rows)]


@pytest.mark.slow
def test_every_figure_has_a_chart() -> None:
    assert titles(ROW) == [
        "Loss",
        "Parts of the loss",
        "Clusters",
        "Crops in no cluster",
        "Size of clusters",
        "Clusters seen by several cameras",
        "Agreement between rounds",
        "Scores on labelled crops",
        "Clusters beside the labels",
        "Radius",
        "Active triplets",
        "Learning rate",
        "Memory",
        "Time",
        "Accuracy",
        "Odd thing",
    ]


@pytest.mark.slow
def test_each_chart_says_how_to_read_it() -> None:
    assert all(chart.caption.endswith(".") for chart in round_charts([ROW]))
    assert len({each.title for each in PLANNED}) == len(PLANNED)


def test_figures_of_several_sets_share_a_chart() -> None:
    row: dict[str, object] = {"round": 1, "clusters_1": 3.0, "clusters_2": 4.0, "loss": 1.0}
    assert titles(row) == ["Loss", "Clusters"]
    (_, clusters) = round_charts([row])
    assert "clusters 1" in clusters.svg
    assert "clusters 2" in clusters.svg


def test_a_figure_that_only_some_rounds_have_is_drawn() -> None:
    assert "Agreement between rounds" in titles({"round": 1}, {"round": 2, "agreement": 0.5})


def test_without_a_loss_its_parts_come_first() -> None:
    assert titles({"round": 1, "loss_x": 1.0, "clusters": 1.0}) == ["Parts of the loss", "Clusters"]


def test_charts_of_labels() -> None:
    labels = np.array([0, 0, 1, -1])
    assert [c.title for c in label_charts(labels, None)] == ["Crops in each cluster"]
    both = label_charts(labels, np.array([1, 1]))
    assert [c.title for c in both] == ["Crops in each cluster", "Cameras of each cluster"]
    assert len(label_charts(np.array([-1, -1]), np.array([], np.int64))) == 2, "none is not a fault"


def test_bytes_are_drawn_as_gigabytes() -> None:
    rows = [{"round": n, "memory_bytes": 2.5e9} for n in (1, 2)]
    (memory,) = round_charts(rows)
    assert memory.title == "Memory"
    assert ">2.5<" in memory.svg
    assert "1e9" not in memory.svg
