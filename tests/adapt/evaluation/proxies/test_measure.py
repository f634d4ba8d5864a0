"""All proxies of a model at once."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import DataError, NonFiniteFeaturesError
from adapt.evaluation.proxies.measure import PROXIES, measure
from tests.support.numbered_sites import people, sightings


def test_every_proxy_prefers_the_better_model_but_density() -> None:
    """Density counts near crops of anybody: only an experiment tells what it is worth."""
    good, of = people(noise=0.4, shift=0.2)
    bad, _ = people(noise=1.2, shift=1.0)
    one, other = measure(bad, of), measure(good, of)
    assert list(one.proxies) == list(other.proxies) == list(PROXIES)
    for name, proxy in PROXIES.items():
        before, after = one.proxies[name], other.proxies[name]
        assert before is not None
        assert after is not None
        if name not in ("neighborhood_density", "effective_rank"):
            assert proxy.sign * after.value > proxy.sign * before.value, name


def test_scale_of_the_embeddings_is_no_matter() -> None:
    feature, of = people(noise=0.8, shift=0.5)
    one, other = measure(feature, of), measure(feature.astype(np.float64) * 7, of)
    for name in PROXIES:
        before, after = one.proxies[name], other.proxies[name]
        assert before is not None
        assert after is not None
        assert before.value == pytest.approx(after.value, abs=1e-4), name


def test_what_a_site_does_not_allow_is_none() -> None:
    feature, of = people(noise=0.8, shift=0.5)
    plain = measure(feature, sightings([0] * len(of)))
    missing = [name for name, each in plain.proxies.items() if each is None]
    assert missing == ["track_retrieval", "mutual_neighbors", "camera_bias", "cross_camera"]


def test_bad_embeddings() -> None:
    feature, of = people(noise=0.8, shift=0.5)
    with pytest.raises(DataError, match="one row for each crop"):
        measure(feature[:-1], of)
    broken = feature.copy()
    broken[3, 1] = np.nan
    with pytest.raises(NonFiniteFeaturesError):
        measure(broken, of)
