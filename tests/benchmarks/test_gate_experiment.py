"""The gate's experiment from run folders to tables, on a site of a few crops."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.proxies.measure import PROXIES  # noqa: E402
from adapt.runs import Run  # noqa: E402
from benchmarks.gate.__main__ import main  # noqa: E402
from benchmarks.gate.measuring import read_site_result  # noqa: E402
from benchmarks.gate.networks import kept_networks  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402
from tests.support.tiny_site import source_run  # noqa: E402


def run_of_rounds(data: Path, out: Path, rounds: int) -> Path:
    """A run that kept each round's network, more and more noise in it."""
    made = source_run(data, out, seed=1)
    run = Run(out, made.info.model_copy(update={"keep_rounds": True}))
    net = run.network()
    torch.manual_seed(0)
    for number in range(2, rounds + 1):
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(0.1 * weight.std() * torch.randn_like(weight))
        run.record({"round": number}, net)
    return out


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("work")
    write_market(root / "source", persons=3)
    for number in (1, 2):
        site = write_market(root / f"site{number}", persons=16, seed=number)
        for folder in ("query", "bounding_box_test"):  # three people are found by any network
            shutil.rmtree(site / folder)
    run_of_rounds(root / "source", root / "many", 4)
    source_run(root / "source", root / "last", seed=2)
    return root


def experiment(*arguments: object) -> None:
    main([str(each) for each in arguments])


def test_networks_of_a_run(work: Path, tmp_path: Path) -> None:
    many = kept_networks(work / "many")
    assert [kept.round for kept in many] == [2, 3, 4]
    assert many[0].name == "many/02"
    assert many[0].file.is_file()
    first, second = (kept.load().state_dict() for kept in many[:2])
    assert any(not torch.equal(first[key], second[key]) for key in first)
    (last,) = kept_networks(work / "last")
    assert (last.round, last.name) == (None, "last")
    assert last.load().backbone_name == "resnet18"
    shutil.copytree(work / "last", tmp_path / "none")
    (tmp_path / "none" / "model.safetensors").unlink()
    assert kept_networks(tmp_path / "none") == []


def test_from_runs_to_tables(work: Path) -> None:
    out = work / "out"
    for number in (1, 2):
        experiment(
            *("measure", "--name", f"site{number}", "--data", work / f"site{number}"),
            *("--runs", work / "many", work / "last", "--out", out, "--device", "cpu"),
        )
    site = read_site_result(out / "site1")
    assert (len(site.models), len(site.groups)) == (4, 64)
    assert set(site.models[0].scores) == {"market", "other-camera"}
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.json")}
    experiment(
        *("measure", "--name", "site1", "--data", work / "site1"),
        *("--runs", work / "many", "--out", out),
    )
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*.json")}
    source_run(work / "site2", work / "other", seed=3)
    with pytest.raises(SystemExit, match="figures of other crops"):
        experiment(
            *("measure", "--name", "site1", "--data", work / "site2"),
            *("--runs", work / "other", "--out", out),
        )
    experiment("choose", "--out", out, "--margin", 0.001)
    content = json.loads((out / "gate.json").read_text())
    assert content["sites"] == {"site1": 4, "site2": 4}
    for protocol in ("market", "other-camera"):
        found = content[protocol]
        assert set(found["spearman"]) == set(PROXIES)
        assert set(found["left_out"]) == {"site1", "site2"}
        assert set(found["rules"]) == {"default", "chosen on all sites"}
    text = (out / "gate.md").read_text()
    assert all(f"| {name} |" in text for name in PROXIES)
    assert (out / "gate.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run the part measure first"):
        experiment("choose", "--out", tmp_path)
