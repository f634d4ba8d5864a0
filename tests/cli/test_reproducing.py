"""`resight reproduce` whole, on tiny folders of the published sets' shapes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch")

import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from adapt.errors import AdaptError, ConfigError, NoImagesError, RunError, StoppedError
from adapt.methods import METHODS
from adapt.recipes.papers import load_paper
from adapt.runs.folder import Run
from adapt.runtime.context import RunContext, StopRequest
from adapt.workflows.adapt import adapt
from cli.main import app
from models.backbones.net import ReIDNet
from models.errors import WeightsError
from tests.support.tiny_sets import write_duke, write_market, write_msmt17

pytestmark = pytest.mark.usefixtures("thin")

STAGE = (
    *("schedule.rounds=1", "schedule.iterations=1", "augment.pad=1"),
    *("batch.identities=3", "batch.instances=2", "batch.ghost=0"),
)
TINY = (
    *("backbone=resnet18", "input.height=32", "input.width=16"),
    *(f"{stage}.{change}" for stage in ("pretrain", "adapt") for change in STAGE),
    "adapt.clustering.clusters=4",
)
TASK = "mmt-duke-market-resnet50-500"


@pytest.fixture(scope="module")
def work(thin: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with the three sets and the weights of a tiny trunk."""
    root = tmp_path_factory.mktemp("work")
    write_market(root / "data" / "Market-1501-v15.09.15", seed=1)
    write_duke(root / "data" / "dukemtmc" / "DukeMTMC-reID", seed=2)
    write_msmt17(root / "data" / "MSMT17_V1", seed=3)
    torch.manual_seed(0)
    save_file(ReIDNet("resnet18").backbone.state_dict(), root / "trunk.safetensors")
    return root


def reproduce(work: Path, *options: object, task: str = TASK, out: str = "out") -> str:
    """What the command prints on a tiny setting; its errors are raised."""
    changes = [part for change in TINY for part in ("--set", change)]
    done = CliRunner().invoke(
        app,
        [
            *("reproduce", task, "--data-root", str(work / "data"), "--out", str(work / out)),
            *("--weights", str(work / "trunk.safetensors"), "--device", "cpu"),
            *(*changes, *map(str, options)),
        ],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def printed(work: Path) -> str:
    return reproduce(work)


def figures(text: str, label: str, whose: str) -> list[float]:
    (line,) = (line for line in text.splitlines() if line.split()[:2] == [label, whose])
    return [float(cell) for cell in line.split()[2:] if cell != "-"]


def test_both_stages_run_and_ours_stand_beside_the_papers(work: Path, printed: str) -> None:
    assert "MMT (Ge et al., ICLR 2020), table 1" in printed
    assert "not the paper's setting: backbone=resnet18, input.height=32" in printed
    assert figures(printed, "unadapted", "paper") == [31.8, 61.9, 76.4, 82.2]
    assert figures(printed, "adapted", "paper") == [71.2, 87.7, 94.9, 96.9]
    ours = figures(printed, "adapted", "ours")
    assert 0 < ours[0] <= 100
    assert 0 <= ours[1] <= ours[2] <= ours[3] <= 100
    scores = json.loads((work / "out" / f"{TASK}-seed1" / "scores.json").read_text())
    assert [round(100 * scores["adapted"]["ours"][k], 1) for k in ("mAP", "cmc1")] == ours[:2]
    assert scores["adapted"]["ours"]["protocol"] == "market"
    assert scores["adapted"]["ours"]["queries"] == 12
    assert scores["adapted"]["paper"]["mAP"] == 71.2
    assert printed.rstrip().endswith("scored on 12 queries, 12 in gallery")
    assert scores["task"] == TASK
    assert "backbone=resnet18" in scores["changed"]


def test_the_runs_are_those_of_the_plan(work: Path, printed: str) -> None:
    """Two source networks by two seeds on Duke, then Market's training crops."""
    sources = [Run.open(work / "out" / f"mmt-duke-resnet18-seed{n}") for n in (1, 2)]
    adapted = Run.open(work / "out" / f"{TASK}-seed1")
    assert [run.info.spec.seed for run in (*sources, adapted)] == [1, 2, 1]
    assert {run.info.data[0].root for run in sources} == {
        str(work / "data" / "dukemtmc" / "DukeMTMC-reID")
    }
    assert adapted.info.data[0].root == str(work / "data" / "Market-1501-v15.09.15")
    assert (adapted.info.data[0].role, adapted.info.data[0].crops) == ("target", 24)
    assert adapted.info.origin.inits == tuple(run.network_hash() for run in sources)
    assert len(set(adapted.info.origin.inits)) == 2
    assert adapted.info.spec.recipe.clustering.clusters == 4
    assert adapted.info.spec.recipe.clustering.camera_centering is False
    assert adapted.info.spec.recipe_name.startswith("mmt (clustering.camera_centering=false, ")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_a_task_that_runs(work: Path, method: str) -> None:
    """24 images: k-means, or neighborhoods of 5 whose clusters stay as they are."""
    task = f"{method}-duke-market-resnet50" + ("-500" if method in ("mmt", "hli") else "")
    easy = [
        *("schedule.passes=0", "clustering.k1=5", "clustering.k2=2", "clustering.radius=0.5"),
        *("clustering.min_samples=2", "clustering.min_cluster_size=2"),
        *(["options.labels=original"] if method == "aml" else []),
    ]
    easy = [part for change in easy for part in ("--set", f"adapt.{change}")]
    text = reproduce(work, *easy, task=task, out="each")
    assert figures(text, "adapted", "paper")[0] == load_paper(method).task[0].mAP
    adapted = Run.open(work / "each" / f"{task}-seed1").info
    assert adapted.method == method
    assert ("source" in [d.role for d in adapted.data[:2]]) or method != "daal"


def test_finished_runs_are_used_again(work: Path, printed: str) -> None:
    folders = sorted((work / "out").iterdir())
    before = {path: (path / "run.json").stat().st_mtime_ns for path in folders}
    assert reproduce(work) == printed
    assert {path: (path / "run.json").stat().st_mtime_ns for path in folders} == before


def test_other_tasks_share_the_source_networks(work: Path, printed: str) -> None:
    before = (work / "out" / "mmt-duke-resnet18-seed1" / "run.json").stat().st_mtime_ns
    text = reproduce(work, task="mmt-duke-msmt17-resnet50-1000")
    assert figures(text, "adapted", "paper") == [23.5, 50.0, 63.6, 69.2]
    assert (work / "out" / "mmt-duke-resnet18-seed1" / "run.json").stat().st_mtime_ns == before
    adapted = Run.open(work / "out" / "mmt-duke-msmt17-resnet50-1000-seed1")
    assert adapted.info.data[0].crops == 24, "MSMT17's training lists alone"
    assert adapted.info.data[0].cameras == ("c1", "c2")


def test_an_interrupted_call_goes_on_where_it_stopped(work: Path, printed: str) -> None:
    """First only one source network is there; then the adaptation was killed."""
    out = work / "stopped"
    out.mkdir()
    first = out / "mmt-duke-resnet18-seed1"
    first.mkdir()
    for file in (work / "out" / first.name).iterdir():
        (first / file.name).write_bytes(file.read_bytes())
    before = (first / "run.json").stat().st_mtime_ns
    assert figures(reproduce(work, out="stopped"), "adapted", "ours") == figures(
        printed, "adapted", "ours"
    )
    assert (first / "run.json").stat().st_mtime_ns == before
    adapted = out / f"{TASK}-seed1" / "run.json"
    content = json.loads(adapted.read_text())
    adapted.write_text(json.dumps({**content, "state": "running"}))
    with pytest.raises(RunError, match=r"ended after 1 round \(running\); remove it"):
        reproduce(work, out="stopped")
    for state, reason in (("failed", "DIVERGED"), ("failed", "CLUSTERS_COLLAPSED")):
        adapted.write_text(json.dumps({**content, "state": state, "reason": reason}))
        with pytest.raises(RunError, match=rf"ended after 1 round \({reason}\); remove it"):
            reproduce(work, out="stopped")


def test_a_stage_that_was_stopped_goes_on(work: Path, printed: str) -> None:
    out = work / "killed"
    shutil.copytree(work / "out", out)
    stage = out / f"{TASK}-seed1"
    wanted = Run.open(stage).network_hash()
    spec = Run.open(stage).info.spec
    shutil.rmtree(stage)
    request = StopRequest()
    request.make()
    with pytest.raises(StoppedError):
        adapt(spec, RunContext(torch.device("cpu"), stop=request), stage)
    assert "continues in round 1" in reproduce(work, "--dry-run", out="killed")
    assert reproduce(work, out="killed") == printed.replace("out/", "killed/")
    assert Run.open(stage).network_hash() == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pretrain.optimizer.lr=1e-5", r"seed1 holds a run with other .*\(recipe\)"),
        ("input.width=24", r"other settings \(preprocessing\)"),
    ],
)
def test_runs_of_other_settings_are_not_used(
    work: Path, printed: str, change: str, message: str
) -> None:
    with pytest.raises(RunError, match=message):
        reproduce(work, "--set", change)


def test_an_adaptation_belongs_to_its_source_networks(work: Path, printed: str) -> None:
    file = work / "out" / f"{TASK}-seed1" / "run.json"
    content = file.read_text()
    file.write_text(json.dumps({**json.loads(content), "origin": {"inits": ["0" * 64, "1" * 64]}}))
    try:
        with pytest.raises(RunError, match="other source networks"):
            reproduce(work)
    finally:
        file.write_text(content)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(work: Path, printed: str) -> None:
    text = reproduce(work, "--dry-run", out="nothing")
    assert not (work / "nothing").exists()
    assert re.search(r"source  \S*DukeMTMC-reID: 24 training, 12 query, 12 gallery crops", text)
    assert re.search(r"target  \S*Market-1501\S*: 24 training, 12 query, 12 gallery crops", text)
    assert text.count("to do") == 3
    assert figures(text, "adapted", "paper") == [71.2, 87.7, 94.9, 96.9]
    assert "ours" not in text.replace("ours the first", "")
    assert reproduce(work, "--dry-run").count("finished") == 3


@pytest.mark.parametrize(
    ("task", "options", "error", "message"),
    [
        ("mmt-duke-market", (), ConfigError, "no task 'mmt-duke-market'"),
        (TASK, ("--set", "optimizer.lr=1"), ConfigError, "starts with pretrain. or adapt."),
        (TASK, ("--set", "backbone=resnet9"), ConfigError, "backbone"),
        (TASK, ("--set", "adapt.schedule.rounds=0"), ConfigError, "schedule.rounds"),
        (
            TASK,
            ("--set", "adapt.clustering.clusters=25"),
            ConfigError,
            "has 24 training crops, which cannot form 25 clusters: give the whole set",
        ),
        (TASK, ("--weights", "absent.pth"), AdaptError, "no file absent.pth"),
        (TASK, ("--data-root", "."), NoImagesError, "no duke in .*looked for"),
        (
            "mmt-duke-market-resnet50_ibn_a-500",
            ("--weights", "torchvision", "--set", "backbone=resnet50_ibn_a"),
            WeightsError,
            "download IBN-Net's",
        ),
    ],
)
def test_what_does_not_hold_is_said_before_anything_is_trained(
    work: Path, task: str, options: tuple[str, ...], error: type[Exception], message: str
) -> None:
    for dry in ((), ("--dry-run",)):
        with pytest.raises(error, match=message):
            reproduce(work, *options, *dry, task=task, out="wrong")
    assert not (work / "wrong").exists()


def test_recipes_lists_the_tasks() -> None:
    done = CliRunner().invoke(app, ["recipes", "--tasks"], catch_exceptions=False)
    assert re.search(rf"^{TASK} +mAP 71\.2, top-1 87\.7$", done.stdout, re.MULTILINE)
