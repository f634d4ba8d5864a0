"""The text of a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import BatchShape, Recipe, Schedule
from adapt.types import UNTRACKED, CropSet, Dropped, Sample
from adapt.workflows.plan import AdaptationPlan, Disk, Memory, Seconds
from cli.planning import amount, duration, plan_text
from models.image import Preprocessing

MB = 10**6
TRACKS = (0, 0, UNTRACKED, 1)
PLAN = AdaptationPlan(
    recipe=Recipe(
        method="mmt",
        schedule=Schedule(rounds=7, iterations=3),
        batch=BatchShape(identities=3, instances=2),
    ),
    crops=CropSet(
        Path("site"),
        tuple(Sample(Path(), str(n), n // 2, track=track) for n, track in enumerate(TRACKS)),
        ("door", "lift"),
        (Dropped("x.jpg", "damaged"), Dropped("Thumbs.db", "no image", image=False)),
        held_back=2,
        thinned=5,
    ),
    source_crops=0,
    backbone="resnet18",
    preprocessing=Preprocessing(height=32, width=16),
    networks=("theta_1", "theta_2", "E_1", "E_2"),
    trained=2,
    views=2,
    clusters=6,
    steps=3,
    device="cpu",
    seconds=Seconds(read=60, extract=60, label=12, train=700, scoring=0),
    memory=Memory(
        measured=1870 * MB,
        networks=40 * MB,
        training=30 * MB,
        activations=1200 * MB,
        labelling=20 * MB,
        device=None,
    ),
    disk=Disk(crops=100 * MB, embeddings=50 * MB, checkpoints=2000 * MB),
)


def test_by_hand() -> None:
    """7 rounds of 772 s, and a minute of reading: 5464 s."""
    assert (
        plan_text(PLAN)
        == """\
mmt on site: a plan, nothing is written
  crops     4 (left out: 2 held back, 5 thinned, 1 cannot be read, 1 other file)
  cameras   2: door 2, lift 2
  tracks    2, and 1 crop without
  networks  resnet18 at 32x16: theta_1, theta_2, E_1, E_2; 2 trained
  batches   6 crops (3 x 2), 2 views of each
  rounds    7 x 3 steps
  time      about 91 min on cpu; a round: extract 60 s, label 12 s, train 12 min
  memory    about 1.9 GB: networks 40 MB, gradients and optimizer 30 MB, \
a step 1.2 GB, labelling 20 MB, the rest libraries and workspace
  disk      about 2.1 GB while it runs: decoded crops 100 MB, embeddings 50 MB, \
checkpoints 2.0 GB"""
    )


def test_what_is_not_always_there() -> None:
    plain = replace(
        PLAN.crops, samples=(Sample(Path(), "a", 0),), dropped=(), held_back=0, thinned=0
    )
    text = plan_text(replace(PLAN, crops=plain, views=1))
    assert "  crops     1\n" in text
    assert "1 view of each" in text
    assert "tracks" not in text
    with_source = plan_text(replace(PLAN, source_crops=9, seconds=replace(PLAN.seconds, scoring=4)))
    assert "source    9 labelled crops" in with_source
    assert "train 12 min, score 4 s" in with_source
    passes = PLAN.recipe.model_copy(update={"schedule": Schedule(passes=2)})
    text = plan_text(replace(PLAN, recipe=passes))
    assert "about 3 steps (2 passes; 6 clusters supposed)" in text
    gpu = plan_text(replace(PLAN, memory=replace(PLAN.memory, device=2000 * MB)))
    assert "about 1.9 GB, and 2.0 GB on the GPU: networks 40 MB" in gpu


def test_many_cameras() -> None:
    samples = tuple(Sample(Path(), str(n), n) for n in range(13))
    crops = CropSet(Path("site"), samples, tuple(f"c{n}" for n in range(13)))
    assert "13: c0 1, c1 1," in plan_text(replace(PLAN, crops=crops))
    assert "c11 1, ...\n" in plan_text(replace(PLAN, crops=crops))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (1.7, "2 s"),
        (59.6, "60 s"),
        (600, "10 min"),
        (3 * 3600, "3 h"),
        (3 * 3600 + 1230, "3 h 20 min"),
        (76 * 3600 + 1, "3 d 4 h"),
        (72 * 3600, "3 d"),
        (48 * 3600 - 1, "2 d"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_amounts() -> None:
    assert [amount(n) for n in (400_000, 52_400_000, 1_250_000_000)] == ["0 MB", "52 MB", "1.2 GB"]
