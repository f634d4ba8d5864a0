"""The speed benchmark's parts: what they are made of, and what they say without their inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.runs.folder import Run  # noqa: E402
from benchmarks.train.__main__ import main  # noqa: E402
from benchmarks.train.kills import where  # noqa: E402
from benchmarks.train.memory import DIMENSION, Embedder, _stages  # noqa: E402
from benchmarks.train.peak import matmul_peak  # noqa: E402
from benchmarks.train.site import write_site  # noqa: E402
from models.image import Preprocessing  # noqa: E402
from tests.support.tiny_runs import info  # noqa: E402


def test_without_the_public_code_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="clone it and give --public"):
        main(["step", "--public", str(tmp_path), "--folder", str(tmp_path)])


def test_made_up_crops_are_read_in_the_order_of_their_labels(tmp_path: Path) -> None:
    site = write_site(tmp_path, crops=6, clusters=3)
    data = site.decoded(Preprocessing(height=32, width=16))
    assert len(data) == 6
    assert site.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert [s.key[:4] for s in data.crops.samples] == [f"{n:04d}" for n in site.labels]


def test_the_peak_is_a_rate() -> None:
    assert matmul_peak(torch.device("cpu"), torch.float32) > 1e8


def test_the_stand_in_embeds_as_a_network_does() -> None:
    out = Embedder(7).embed(torch.randn(3, 3, 4, 2))
    assert out.shape == (3, 7)
    np.testing.assert_allclose(out.norm(dim=1), np.ones(3), rtol=1e-5)


def test_embeddings_are_not_held_in_own_memory(tmp_path: Path) -> None:
    """4,000 crops: two tables and their mean are 98 MB, none of which the process holds."""
    stages = dict(_stages(tmp_path, 4000))
    assert 3 * 4000 * DIMENSION * 4 > 95e6
    grown = stages["their mean and the clusters' centers"] - stages["crops listed and mapped"]
    assert grown < 80e6


def test_a_kill_says_its_round_and_what_the_run_goes_on_from(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert where(path) == "before there was a run"
    run = Run.create(path, info(rounds=2))
    assert where(path) == "running in round 3, no checkpoint"
    run.save_checkpoint({}, {"round": 2, "steps_in_round": 0})
    assert where(path) == "running in round 3, checkpoint between rounds, 2 done"
    run.save_checkpoint({}, {"round": 2, "steps_in_round": 3})
    assert where(path) == "running in round 3, checkpoint within round 3, after 3 steps"
    run.release()
