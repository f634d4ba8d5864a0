"""The training loop on a CPU, by sections of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from adapt.config import Clustering, Recipe
from adapt.data.decoding.decode import DecodedCrops
from adapt.methods import Method
from adapt.runtime.context import RunContext
from adapt.training.loop import RoundResult, TrainingSession, train
from adapt.training.state import Checkpointer, Snapshot


def run_loop(
    method: Method,
    data: DecodedCrops,
    *,
    source: DecodedCrops | None = None,
    camera_statistics: bool = False,
    seed: int = 0,
    checkpointer: Checkpointer | None = None,
    resume: Snapshot | None = None,
    **sections: object,
) -> Iterator[RoundResult]:
    """sections: of the recipe, but for clustering, of which the loop needs one field."""
    recipe = Recipe(
        method="any",
        clustering=Clustering(camera_statistics=camera_statistics),
        **sections,
    )
    return train(
        TrainingSession(method, data, source),
        recipe,
        RunContext(torch.device("cpu")),
        seed=seed,
        checkpointer=checkpointer,
        resume=resume,
    )
