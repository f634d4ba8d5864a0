from __future__ import annotations

import re
from time import sleep

from service.operations.metrics import Metrics


def _ours(metrics: Metrics) -> list[str]:
    return [
        family.name for family in metrics.registry.collect() if family.name.startswith("resight_")
    ]


def test_names_have_the_prefix_and_say_their_unit(metrics: Metrics) -> None:
    names = _ours(metrics)
    assert len(names) >= 12
    for name in names:
        assert re.fullmatch(r"resight_[a-z_]+[a-z]", name)
        assert "_ms" not in name
        assert "millisecond" not in name


def test_no_label_can_hold_a_sighting_or_a_person(metrics: Metrics) -> None:
    labels = {
        label for metric in vars(metrics).values() for label in getattr(metric, "_labelnames", ())
    }
    assert labels == {
        "code",
        "file",
        "method",
        "model",
        "outcome",
        "problem",
        "provider",
        "reason",
        "site",
        "stage",
        "state",
        "version",
    }


def test_a_stage_is_timed_also_when_it_fails(metrics: Metrics) -> None:
    try:
        with metrics.stage("search"):
            sleep(0.002)
            raise KeyError
    except KeyError:
        pass
    value = metrics.registry.get_sample_value
    assert value("resight_stage_duration_seconds_count", {"stage": "search"}) == 1
    total = value("resight_stage_duration_seconds_sum", {"stage": "search"})
    assert total is not None
    assert total >= 0.002


def test_counts_are_told_apart_by_powers_of_two(metrics: Metrics) -> None:
    for histogram in (metrics.batch_size, metrics.commit_size):
        (family,) = histogram.collect()
        limits = [s.labels["le"] for s in family.samples if s.name.endswith("_bucket")]
        assert limits == [*(str(float(2**n)) for n in range(11)), "+Inf"]
