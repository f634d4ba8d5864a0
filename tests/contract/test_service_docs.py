"""What the service offers and what docs/service.md says are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client.metrics import MetricWrapperBase

import cli.serving
from models.errors import ImageError
from service.config import Settings
from service.errors import CallError, call_errors
from service.jobs.records import JobReason
from service.operations.metrics import new_metrics
from service.rpc.pb.resight.v1 import (
    adaptation_pb2,
    embedding_pb2,
    gallery_pb2,
    model_pb2,
    site_pb2,
)

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "service.md").read_text()
PROTOS = "\n".join(path.read_text() for path in (ROOT / "proto" / "resight" / "v1").glob("*.proto"))


def section(title: str) -> str:
    """The text from a heading to the next one of its level or above."""
    match = re.search(rf"^(#+) {title}\n(.*?)(?=^#{{1,2}} |\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert match, f"docs/service.md has no section {title}"
    return match[2]


def first_cells(title: str) -> list[str]:
    """The code spans in the first cells of a section's table."""
    return re.findall(r"^\| `([^`]+)` \|", section(title), re.MULTILINE)


def leaf_commands(command: Any, path: str) -> Iterator[str]:
    """Full names of the commands below a command (groups have `commands`)."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path
        return
    for name, child in children.items():
        yield from leaf_commands(child, f"{path} {name}")


def root_command() -> Any:
    app = typer.Typer()
    cli.serving.register(app)
    return typer.main.get_command(app)


def test_rpcs() -> None:
    offered = {
        f"{service.name}.{method.name}"
        for module in (site_pb2, gallery_pb2, embedding_pb2, model_pb2, adaptation_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(first_cells("RPCs")) == offered


def test_settings() -> None:
    rows = {
        cells[0].strip("`"): cells
        for line in section("Settings").splitlines()
        if line.startswith("| `RESIGHT_")
        for cells in [[cell.strip() for cell in line.split("|")[1:-1]]]
    }
    assert set(rows) == {f"RESIGHT_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        cells = rows[f"RESIGHT_{name.upper()}"]
        if isinstance(field.default, bool):
            assert cells[2] == str(field.default).lower(), name
        elif isinstance(field.default, int | float):
            assert float(cells[2]) == field.default, name
        elif isinstance(field.default, str):
            assert cells[2] == field.default, name


def test_metrics() -> None:
    offered = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in new_metrics().registry.collect()
        if family.name.startswith("resight_")
    }
    assert set(first_cells("Metrics")) == offered


def test_metric_labels() -> None:
    text = section("Metrics")
    metrics = [m for m in vars(new_metrics()).values() if isinstance(m, MetricWrapperBase)]
    assert len(metrics) == len(first_cells("Metrics"))
    for metric in metrics:
        (family,) = metric.describe()
        suffix = "_total" if family.type == "counter" else ""
        row = re.search(rf"^\| `{family.name}{suffix}` \| (.*?) \|", text, re.MULTILINE)
        assert row, family.name
        documented = row[1].partition("; ")[2]
        labels = documented.split(", ") if documented else []
        assert accepts(metric, labels), (family.name, labels)
        assert not accepts(metric, [*labels, "other"]), "a metric that accepts all proves nothing"


def accepts(metric: MetricWrapperBase, labels: list[str]) -> bool:
    """Whether these are the labels of a metric, in this order."""
    if labels:
        try:
            metric.labels(*labels)
        except ValueError:
            return False
    # A metric has samples as soon as all its labels have values: each here its own name.
    values = dict(zip(labels, labels, strict=True))
    return any(values.items() <= sample.labels.items() for sample in metric.collect()[0].samples)


def test_commands() -> None:
    assert set(first_cells("Commands")) == set(leaf_commands(root_command(), "resight"))


def test_options_of_serve_are_in_the_table_of_settings() -> None:
    options = {
        option
        for parameter in root_command().commands["serve"].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    documented = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", section("Settings")))
    assert documented == options - {"--help"}


def _leaves(kind: type[CallError]) -> list[type[CallError]]:
    return [leaf for child in kind.__subclasses__() for leaf in (_leaves(child) or [child])]


def test_errors() -> None:
    rows = dict(
        reversed(pair)
        for pair in re.findall(r"^\| ([A-Z_]+) \| `([A-Z_]+)` \|", section("Errors"), re.MULTILINE)
    )
    sent = {kind.reason: kind.code.name for kind in _leaves(CallError)}
    assert rows == sent | {"INTERNAL": "INTERNAL"}


def test_codes_and_reasons_do_not_change_unseen() -> None:
    """Programs of other people rely on these; a change here needs a new version of the API."""
    kinds: list[type[CallError]] = [CallError, *_leaves(CallError)]
    assert {kind.reason: kind.code.name for kind in kinds} == {
        "ADAPTATION_NOT_CONFIGURED": "FAILED_PRECONDITION",
        "ADAPTATION_NOT_FOUND": "NOT_FOUND",
        "ADAPTATION_OVER": "FAILED_PRECONDITION",
        "ADAPTATION_UNFINISHED": "FAILED_PRECONDITION",
        "BAD_ADAPTATION": "INVALID_ARGUMENT",
        "BAD_FILTER": "INVALID_ARGUMENT",
        "BAD_IMAGE": "INVALID_ARGUMENT",
        "BAD_LIMIT": "INVALID_ARGUMENT",
        "BAD_MESSAGE": "INVALID_ARGUMENT",
        "BAD_NAME": "INVALID_ARGUMENT",
        "BAD_PAGE_TOKEN": "INVALID_ARGUMENT",
        "BAD_SIGHTING": "INVALID_ARGUMENT",
        "CROP_UNUSABLE": "FAILED_PRECONDITION",
        "DUPLICATE_ID": "INVALID_ARGUMENT",
        "ENGINE_FAILED": "INTERNAL",
        "INTERNAL": "INTERNAL",
        "MODEL_MISMATCH": "FAILED_PRECONDITION",
        "MODEL_NOT_FOUND": "NOT_FOUND",
        "MODEL_REJECTED": "FAILED_PRECONDITION",
        "MODEL_UNUSABLE": "FAILED_PRECONDITION",
        "NO_CROPS": "FAILED_PRECONDITION",
        "NO_EARLIER_MODEL": "FAILED_PRECONDITION",
        "QUEUE_FULL": "RESOURCE_EXHAUSTED",
        "REEMBED_RUNNING": "FAILED_PRECONDITION",
        "REQUEST_ID_REUSED": "INVALID_ARGUMENT",
        "ROW_DAMAGED": "INTERNAL",
        "SHUTTING_DOWN": "UNAVAILABLE",
        "SIGHTING_NOT_FOUND": "NOT_FOUND",
        "SITE_EXISTS": "ALREADY_EXISTS",
        "SITE_NOT_EMPTY": "FAILED_PRECONDITION",
        "SITE_NOT_FOUND": "NOT_FOUND",
        "SITE_SWITCHING": "UNAVAILABLE",
        "STORE_BUSY": "UNAVAILABLE",
        "STORE_FAILED": "INTERNAL",
        "STORE_FULL": "RESOURCE_EXHAUSTED",
        "TOO_MANY_ITEMS": "INVALID_ARGUMENT",
    }


@pytest.mark.parametrize(
    "reason", sorted({kind.reason for kind in _leaves(CallError)} - {"STORE_FAILED", "ROW_DAMAGED"})
)
def test_reasons_are_in_the_comments_of_the_protos(reason: str) -> None:
    code = call_errors()[reason].code.name
    assert re.search(rf"// .*{code} / {reason}\b", PROTOS), f"{code} / {reason} is in no comment"


def test_every_reason_of_a_failed_adaptation() -> None:
    text = section("Adaptation")
    reasons = {reason.value for reason in JobReason} | {"NOT_INSTALLED"}
    assert {reason for reason in reasons if f"| `{reason}` |" not in text} == set()


def test_every_problem_of_an_image() -> None:
    row = next(line for line in section("Errors").splitlines() if "`BAD_IMAGE`" in line)
    documented = set(re.findall(r"`(IMAGE_\w+)`", row))
    assert documented == {kind.reason for kind in ImageError.__subclasses__()}


def test_every_setting_that_a_proto_names_exists() -> None:
    named = set(re.findall(r"RESIGHT_[A-Z_]+", PROTOS))
    assert named
    assert named <= {f"RESIGHT_{name.upper()}" for name in Settings.model_fields}
