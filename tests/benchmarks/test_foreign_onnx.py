"""The comparison of ONNX files with their bundles: its own mAP, and what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")
pytest.importorskip("onnxruntime", reason="wrapping needs ONNX Runtime")

from benchmarks import foreign_onnx
from benchmarks.foreign_onnx import main, mean_average_precision
from tests.support.foreign_onnx import FLAT
from tests.support.tiny_sets import write_market


def test_average_precision_by_hand() -> None:
    """Ranked by similarity: own camera's 1, 2, other's 1, junk, own camera's 2, other's 1."""
    names = ("0001_c1", "0002_c2", "0001_c2", "-1_c2", "0002_c1", "0001_c2")
    gallery = np.array([[6.0, 0], [5, 0], [4, 0], [3, 0], [2, 0], [1, 0]])
    crops = [Path(f"{name}s1_{i:06d}_00.png") for i, name in enumerate(names)]
    query, query_crop = np.array([[1.0, 0]]), [Path("0001_c1s1_9_0.png")]
    scores = {
        name: mean_average_precision(query, query_crop, gallery, crops, name)
        for name in foreign_onnx.PROTOCOLS
    }
    assert scores["market"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert scores["other-camera"] == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize("folders", [("query", "bounding_box_test"), ("bounding_box_train",)])
def test_a_bundle_scores_as_its_file(
    folders: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_market(tmp_path / "set")
    for path in data.iterdir():
        if path.name not in folders:
            path.rename(tmp_path / path.name)
    file = FLAT.save(tmp_path / "osnet.onnx")
    assert main(["--data", str(data), str(file)]) == 0
    header, line, row = capsys.readouterr().out.splitlines()
    assert header.count("|") == line.count("|") == row.count("|")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["osnet.onnx", ", opset 9, batch 1"]
    assert cells[3] == "set"
    assert cells[4] == cells[5]
    assert cells[6] == cells[7]
    assert 0 < float(cells[4]) <= 1


def test_a_difference_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_market(tmp_path / "set")
    monkeypatch.setattr(
        foreign_onnx,
        "vectors_of_file",
        lambda _, crops: np.random.default_rng(1).normal(size=(len(crops), 8)),
    )
    assert main(["--data", str(data), str(FLAT.save(tmp_path / "osnet.onnx"))]) == 1
    assert "DIFFERS" in capsys.readouterr().out
