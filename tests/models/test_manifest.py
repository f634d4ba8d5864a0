from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from models.manifest import MAX_TOLERANCE, Manifest, ModelCard, SelfTest

FILES = dict.fromkeys(("model.onnx", "selftest/images.npy", "selftest/vectors.npy"), "a" * 64)


def make(card: ModelCard, **changes: Any) -> Manifest:
    fields = dict(card) | {"dimension": 6, "files": FILES, "self_test": SelfTest(tolerance=0.01)}
    return Manifest(**(fields | changes))


def test_round_trip(make_card: Callable[..., ModelCard]) -> None:
    manifest = make(make_card())
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.reference == "toy@1"
    assert manifest.schema_version == 1


def test_frozen(make_card: Callable[..., ModelCard]) -> None:
    with pytest.raises(ValidationError):
        make(make_card()).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["a", "resnet50_ibn_a-lobby.v2", "0", "x" * 63])
@pytest.mark.parametrize("version", ["0", "1", "10", "1.2", "1.0.3"])
def test_good_names(make_card: Callable[..., ModelCard], name: str, version: str) -> None:
    assert make_card(name=name, version=version).reference == f"{name}@{version}"


@pytest.mark.parametrize(
    "name", ["", "A", "-a", ".a", "..", "a/b", "a@b", "a b", "ä", "x" * 64, "a\n", "a\0"]
)
def test_bad_names(make_card: Callable[..., ModelCard], name: str) -> None:
    with pytest.raises(ValidationError):
        make_card(name=name)


@pytest.mark.parametrize(
    "version", ["", "v1", "01", "1.", ".1", "1.2.3.4", "1-a", "-1", "1\n", "../1", "1.02"]
)
def test_bad_versions(make_card: Callable[..., ModelCard], version: str) -> None:
    with pytest.raises(ValidationError):
        make_card(version=version)


@pytest.mark.parametrize(
    "changes",
    [
        {"created": datetime(2026, 1, 2)},
        {"scores": {"mAP": float("nan")}},
        {"backbone": ""},
        {"method": ""},
        {"color": "red"},
    ],
)
def test_bad_cards(make_card: Callable[..., ModelCard], changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_card(**changes)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a\\..\\x",
        "./a",
        "a//b",
        "a/",
        "",
        "a\0b",
        "manifest.json",
    ],
)
def test_paths_that_leave_the_bundle(make_card: Callable[..., ModelCard], path: str) -> None:
    with pytest.raises(ValidationError, match="plain path"):
        make(make_card(), files=FILES | {path: "a" * 64})
    with pytest.raises(ValidationError, match="plain path"):
        SelfTest(images=path, tolerance=0.01)


@pytest.mark.parametrize("missing", sorted(FILES))
def test_every_file_in_use_is_hashed(make_card: Callable[..., ModelCard], missing: str) -> None:
    files = {name: digest for name, digest in FILES.items() if name != missing}
    with pytest.raises(ValidationError, match=missing):
        make(make_card(), files=files)


def test_a_vector_has_one_number_at_least_and_65536_at_most(
    make_card: Callable[..., ModelCard],
) -> None:
    for dimension in (1, 65536):
        assert make(make_card(), dimension=dimension).dimension == dimension
    for dimension in (0, 65537):
        with pytest.raises(ValidationError, match="dimension"):
            make(make_card(), dimension=dimension)


@pytest.mark.parametrize("changes", [{"schema_version": 2}, {"files": FILES | {"x": "A" * 64}}])
def test_bad_manifests(make_card: Callable[..., ModelCard], changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(make_card(), **changes)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, MAX_TOLERANCE * 1.01, float("nan")])
def test_a_tolerance_that_would_let_all_pass_is_refused(tolerance: float) -> None:
    with pytest.raises(ValidationError):
        SelfTest(tolerance=tolerance)
