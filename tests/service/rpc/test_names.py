from __future__ import annotations

import pytest

from service.errors import BadNameError
from service.rpc import names


def test_names() -> None:
    assert names.parse_site(names.site_name("a")) == "a"
    assert names.parse_sighting(names.sighting_name("a", "b")) == ("a", "b")
    assert names.parse_model(names.model_name("m@1.2")) == "m@1.2"
    assert names.parse_model_or_name(names.model_name("m@1.2")) == "m@1.2"
    assert names.parse_model_or_name(names.model_name("m")) == "m"
    assert names.parse_adaptation(names.adaptation_name("a", "b")) == ("a", "b")


@pytest.mark.parametrize("name", ["", "a", "sites", "sites/a/b", "/sites/a", "site/a", "models/a"])
def test_wrong_site_names(name: str) -> None:
    with pytest.raises(BadNameError, match=r"sites/\{site\}"):
        names.parse_site(name)


@pytest.mark.parametrize("name", ["", "sites/a", "sites/a/sightings/b/c", "sites/a/crops/b"])
def test_wrong_sighting_names(name: str) -> None:
    with pytest.raises(BadNameError):
        names.parse_sighting(name)


@pytest.mark.parametrize("name", ["m@1", "models/m", "models/m@1@2", "models/m/1"])
def test_wrong_model_names(name: str) -> None:
    with pytest.raises(BadNameError):
        names.parse_model(name)


@pytest.mark.parametrize("name", ["m@1", "models", "models/", "models/m/1", "sites/m"])
def test_wrong_names_of_models_to_activate(name: str) -> None:
    with pytest.raises(BadNameError):
        names.parse_model_or_name(name)


@pytest.mark.parametrize(
    "name", ["", "sites/a", "sites/a/adaptations/b/c", "sites/a/sightings/b", "a/b"]
)
def test_wrong_adaptation_names(name: str) -> None:
    with pytest.raises(BadNameError):
        names.parse_adaptation(name)
