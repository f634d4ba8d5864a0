"""The gate's experiment from run folders to tables, on a site of a few crops."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.evaluation.proxies.measure import PROXIES  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from benchmarks.gate.__main__ import main  # noqa: E402
from benchmarks.gate.letters import unpack_letters  # noqa: E402
from benchmarks.gate.measuring import read_site_result  # noqa: E402
from benchmarks.gate.networks import kept_networks, source_network  # noqa: E402
from benchmarks.gate.spoiled import FAULTS, NOISE, damage  # noqa: E402
from tests.support.tiny_runs import row  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402
from tests.support.tiny_site import source_run  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")


def run_of_rounds(data: Path, out: Path, rounds: int) -> Path:
    """A run that kept each round's network, more and more noise in it."""
    made = source_run(data, out, seed=1)
    kept = made.info.spec.model_copy(update={"keep_rounds": True})
    run = Run(out, made.info.model_copy(update={"spec": kept}))
    net = run.network()
    torch.manual_seed(0)
    for number in range(2, rounds + 1):
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(0.1 * weight.std() * torch.randn_like(weight))
        run.record(row(number), net)
    return out


@pytest.fixture(scope="module")
def work(thin: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("work")
    write_market(root / "source", persons=3)
    for number in (1, 2):
        site = write_market(root / f"site{number}", persons=16, each=4, seed=number)
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
    assert [kept.stage for kept in many] == ["round", "round", "last"]
    assert [kept.round for kept in kept_networks(work / "many", [3, 7])] == [3, 4]
    source = source_network(work / "many")
    assert (source.round, source.stage, source.name) == (None, "source", "many")
    assert many[0].name == "many/02"
    assert many[0].file.is_file()
    first, second = (kept.load().state_dict() for kept in many[:2])
    assert any(not torch.equal(first[key], second[key]) for key in first)
    (last,) = kept_networks(work / "last")
    assert (last.round, last.name, last.stage) == (None, "last", "last")
    assert last.load().backbone_name == "resnet18"
    shutil.copytree(work / "last", tmp_path / "none")
    (tmp_path / "none" / "model.safetensors").unlink()
    assert kept_networks(tmp_path / "none") == []


def measuring(work: Path, site: int, *arguments: object) -> None:
    experiment(
        *("measure", "--name", f"site{site}", "--kind", f"kind{site}"),
        *("--data", work / f"site{site}", "--sources", work / "last", "--device", "cpu"),
        *arguments,
    )


def test_from_runs_to_tables(work: Path) -> None:
    out = work / "out"
    for number in (1, 2):
        measuring(work, number, "--runs", work / "many", "--tracks", "--out", out)
    site = read_site_result(out / "site1")
    assert (len(site.models), len(site.groups), site.kind) == (4, 128, "kind1")
    assert [model.stage for model in site.models] == ["source", "round", "round", "last"]
    assert set(site.models[0].scores) == {"market", "other-camera"}
    assert site.models[0].figures.proxies["track_retrieval"] is None
    tracked = read_site_result(out / "site1-tracks")
    assert len(set(tracked.groups.tolist())) == 32, "16 people in two cameras"
    assert tracked.models[0].figures.proxies["track_retrieval"] is not None
    assert tracked.models[0].scores == site.models[0].scores
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.json")}
    measuring(work, 1, "--runs", work / "many", "--out", out)
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*.json")}
    source_run(work / "site2", work / "other", seed=3)
    with pytest.raises(SystemExit, match="figures of other crops or kind"):
        experiment(
            *("measure", "--name", "site1", "--kind", "kind1", "--data", work / "site2"),
            *("--sources", work / "other", "--runs", work / "other", "--out", out),
        )
    experiment("choose", "--out", out, "--margin", 0.001)
    content = json.loads((out / "gate.json").read_text())
    assert content["sites"]["site1-tracks"] == {"kind": "kind1", "models": 4}
    for protocol in ("market", "other-camera"):
        found = content[protocol]
        assert set(found["spearman"]) == set(PROXIES)
        assert set(found["rules"]) >= {"default"}
        assert len(found["verdicts"]) == 4, "one source network, one run, four sites"
    text = (out / "gate.md").read_text()
    assert all(f"| {name} |" in text for name in PROXIES)
    assert (out / "gate.png").read_bytes().startswith(b"\x89PNG")
    experiment("test", "--out", out, "--margin", 0.001)
    tested = json.loads((out / "gate.json").read_text())
    for protocol in ("market", "other-camera"):
        own = tested[protocol]
        assert own["rules"] == {"default": content[protocol]["rules"]["default"]}
        assert own["left_out"] == {}
        assert own["verdicts"] == content[protocol]["verdicts"]


def test_a_share_held_back(work: Path) -> None:
    out = work / "held"
    measuring(work, 1, "--runs", work / "last", "--hold-back", 0.9, "--out", out)
    whole, held = (read_site_result(out / name) for name in ("site1", "site1-held"))
    assert 100 <= len(held.groups) < len(whole.groups)
    assert held.models[0].scores == whole.models[0].scores, "the truth is of all crops"
    with pytest.raises(SystemExit, match="the gate holds"):
        measuring(work, 1, "--runs", work / "last", "--hold-back", 0.1, "--out", work / "few")


def test_queries_and_gallery_are_one_crowd(work: Path, tmp_path: Path) -> None:
    data = write_market(tmp_path / "split", persons=2, each=18)
    source_run(data, tmp_path / "run", seed=1)
    experiment(
        *("measure", "--name", "split", "--kind", "k", "--data", data, "--device", "cpu"),
        *("--sources", tmp_path / "run", "--runs", tmp_path / "run", "--out", tmp_path / "out"),
    )
    site = read_site_result(tmp_path / "out" / "split")
    assert len(site.groups) == 2 * 3 * 2 * 18
    assert [model.stage for model in site.models] == ["source"], "one file is measured once"


def test_runs_that_fail(work: Path, tmp_path: Path) -> None:
    experiment(
        *("spoil", "--target", work / "site1", "--init", work / "last", "--out", tmp_path),
        *("--set", "augment.pad=1", "schedule.rounds=1", "schedule.iterations=1"),
    )
    noise = {"noise-30-1", "noise-60-1", "noise-100-1"}
    assert {path.name for path in tmp_path.iterdir()} == noise | {f"{name}-1" for name in FAULTS}
    for name, changes in FAULTS.items():
        recipe = Run.open(tmp_path / f"{name}-1").info.spec.recipe.model_dump(mode="json")
        assert recipe["method"] == "mmt"
        assert recipe["options"]["networks"] == 1
        for change in changes:
            if change.startswith("schedule"):
                continue  # what is set for every recipe goes over a fault's own
            key, value = change.split("=")
            section, field = key.split(".")
            assert str(recipe[section][field]).lower() == value, change


def test_noise_by_hand(work: Path, tmp_path: Path) -> None:
    folders = damage(work / "last", tmp_path, seed=4)
    before = Run.open(work / "last").network().state_dict()
    for level, folder in zip(NOISE, folders, strict=True):
        (kept,) = kept_networks(folder)
        after = kept.load().state_dict()
        for name, weight in before.items():
            if not name.endswith("weight") or weight.ndim < 2:
                assert torch.equal(weight, after[name]), name
            elif weight.numel() > 10_000:
                added = (after[name] - weight).std() / weight.std()
                assert float(added) == pytest.approx(level, rel=0.05), name
    assert damage(work / "last", tmp_path, seed=4) == folders, "what is there stays"


def test_letters(tmp_path: Path) -> None:
    archive = tmp_path / "letters.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(1, 201):
            file.writestr(
                f"omniglot_background/bounding_box_train/{number:04d}_c1s1_000001_00.png", ""
            )
        for number in range(1, 181):
            folder = (
                "bounding_box_train"
                if number % 2
                else ("query", "bounding_box_test")[number % 4 // 2]
            )
            file.writestr(f"omniglot_evaluation/{folder}/{number:04d}_c1s1_000001_00.png", "")
    made = unpack_letters(archive, tmp_path / "out", 1)
    numbers = {
        name: sorted(int(path.name[:4]) for path in folder.rglob("*.png"))
        for name, folder in vars(made).items()
    }
    assert numbers["source"] == list(range(1, 201))
    assert numbers["learned"] == list(range(1, 80, 2))
    assert numbers["judged"] == list(range(2, 79, 2))
    with pytest.raises(SystemExit, match="there are 2 blocks of 40 characters"):
        unpack_letters(archive, tmp_path / "out", 3)


def test_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run the part measure first"):
        experiment("choose", "--out", tmp_path)
