"""A run that stopped anywhere and is resumed ends as one that never stopped."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

import safetensors  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from adapt.config import BatchShape, Recipe, Schedule  # noqa: E402
from adapt.errors import CheckpointError, RunError, StoppedError  # noqa: E402
from adapt.methods import METHODS, students_of  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.recipes import load_recipe  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runs.listing import NOT_LEARNED  # noqa: E402
from adapt.runtime.context import RunContext, StopRequest  # noqa: E402
from adapt.workflows.adapt import adapt  # noqa: E402
from adapt.workflows.pretrain import pretrain  # noqa: E402
from adapt.workflows.resume import resume  # noqa: E402
from tests.support.shared_runs import StopAfter  # noqa: E402
from tests.support.specs import CPU, adapt_spec, pretrain_spec  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

ROUNDS, STEPS = 3, 2
TINY = (
    *(f"schedule.rounds={ROUNDS}", f"schedule.iterations={STEPS}", "schedule.passes=0"),
    *("augment.pad=1", "batch.identities=4", "batch.instances=2", "batch.ghost=0"),
    *("clustering.k1=6", "clustering.k2=2", "clustering.min_samples=3"),
    "clustering.min_cluster_size=3",
)
OWN = {
    "aml": ("options.merge_nearest=1", "options.merge_cross_camera=2"),
    "mmt": (
        *("clustering.algorithm=kmeans", "clustering.clusters=6"),
        *("options.classifier=random", "options.fresh_optimizer=false"),
    ),
}
"""AML: lists that fit few crops. MMT: random numbers in labelling, moments across rounds."""


def context(stop: StopRequest | None = None) -> RunContext:
    return RunContext(CPU, stop=stop or StopRequest())


class RunsOnDisk:
    """Crops on disk, two source networks, and runs on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = write_market(root / "source", persons=6, seed=1)
        self.site = write_market(root / "site", persons=8, cameras=2, each=4, seed=2)
        self.inits = [self.pretrained(root / f"init-{n}", n).path for n in (1, 2)]

    def pretrained(self, out: Path, seed: int, stop: StopRequest | None = None) -> Run:
        recipe = Recipe(
            method="source",
            options=SourceOptions(),
            schedule=Schedule(rounds=ROUNDS, iterations=STEPS),
            batch=BatchShape(identities=3, instances=2),
        )
        spec = pretrain_spec(self.source, seed, backbone="resnet18", recipe=recipe)
        return pretrain(spec, context(stop), out)

    def adapted(
        self, name: str, out: Path, stop: StopRequest | None = None, hold_back: float = 0.0
    ) -> Run:
        recipe = load_recipe(f"{name}_small", method=name, overrides=(*TINY, *OWN.get(name, ())))
        wanted = students_of(recipe)
        spec = adapt_spec(
            self.site,
            self.inits[:wanted],
            recipe,
            sources=(self.source,) if recipe.options.source_wanted() else (),
            validation=self.site,
            keep_rounds=True,
            hold_back=hold_back,
        )
        return adapt(spec, context(stop), out)

    def whole(self, name: str) -> Run:
        """The unbroken run of a method, made once."""
        path = self.root / f"{name}-whole"
        return Run.open(path) if path.exists() else self.adapted(name, path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> RunsOnDisk:
    return RunsOnDisk(tmp_path_factory.mktemp("runs"))


def outcome(run: Run) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """Figures of each round, without times, and every network."""
    rows = [
        {name: value for name, value in row.items() if not name.startswith(NOT_LEARNED)}
        for row in run.metrics()
    ]
    return rows, {p.name: p.read_bytes() for p in sorted(run.path.rglob("*.safetensors"))}


def stages(row: dict[str, Any]) -> set[str]:
    """Those that a round took time for."""
    return {name for name, value in row.items() if name.startswith("seconds_") and value}


def in_pieces(start: Callable[[StopRequest], Run], path: Path, looks: int) -> tuple[Run, int]:
    """Stop a run again and again after so many looks at the request; the run, and its pieces."""
    pieces = 1
    work: Callable[[StopRequest], Run] = start
    while True:
        try:
            return work(StopAfter(looks)), pieces
        except StoppedError:
            assert Run.open(path).info.state == "stopped"
            pieces += 1
            work = lambda stop: resume(path, context(stop))  # noqa: E731


@pytest.mark.parametrize("name", METHODS)
def test_a_run_in_pieces_is_the_unbroken_one(runs: RunsOnDisk, name: str) -> None:
    whole = runs.whole(name)
    path = runs.root / f"{name}-pieces"
    # with 5 looks it stops within rounds, between them, in extraction and after labelling
    run, pieces = in_pieces(lambda stop: runs.adapted(name, path, stop), path, 5)
    assert pieces > 3
    assert outcome(run) == outcome(whole)
    assert list(map(stages, run.metrics())) == list(map(stages, whole.metrics()))
    assert run.info.model_dump(exclude={"started", "seconds"}) == whole.info.model_dump(
        exclude={"started", "seconds"}
    )
    assert not (path / "checkpoint.safetensors").exists()
    assert not list(path.glob("*.crops"))
    with pytest.raises(RunError, match="is finished: there is nothing to continue"):
        resume(path, context())


def test_crops_held_back_stay_so(runs: RunsOnDisk, tmp_path: Path) -> None:
    whole = runs.adapted("mmt", tmp_path / "whole", hold_back=0.2)
    path = tmp_path / "pieces"
    run, pieces = in_pieces(
        lambda stop: runs.adapted("mmt", path, stop, hold_back=0.2), path, STEPS + 5
    )
    assert pieces > 1
    assert outcome(run) == outcome(whole)
    (target,) = (data for data in run.info.data if data.role == "target")
    assert target.crops < 8 * 2 * 4
    assert run.info.spec.hold_back == 0.2


def test_pretraining_in_pieces_is_the_unbroken_one(runs: RunsOnDisk) -> None:
    path = runs.root / "init-pieces"
    run, pieces = in_pieces(lambda stop: runs.pretrained(path, 1, stop), path, 2)
    assert pieces > 2
    assert outcome(run) == outcome(Run.open(runs.inits[0]))


@pytest.fixture(scope="module")
def stopped(runs: RunsOnDisk) -> Path:
    """A run that was stopped within its second round."""
    path = runs.root / "stopped"
    with pytest.raises(StoppedError, match=f"resume it with --resume {path}"):
        runs.adapted("hli", path, StopAfter(14))
    run = Run.open(path)
    assert (run.info.state, run.info.reason) == ("stopped", "STOPPED")
    assert 0 < run.info.rounds < ROUNDS
    return path


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


def changed(path: Path, **changes: object) -> Path:
    file = path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


def changed_spec(path: Path, **changes: object) -> Path:
    return changed(path, spec=json.loads((path / "run.json").read_text())["spec"] | changes)


def test_a_process_that_died_between_figures_and_network_goes_on(
    runs: RunsOnDisk, copy: Path
) -> None:
    """What it wrote of the round after its checkpoint is forgotten, a torn line, too."""
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "loss": 1.0, "warnings": []}\n{"round": 3, "lo')
    changed(copy, state="running", rounds=2, reason="", error="")
    whole = runs.whole("hli")
    assert outcome(resume(copy, context())) == outcome(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": "finished"}, "is finished"),
        ({"state": "failed", "reason": "DIVERGED", "error": "NaN"}, r"for good \(DIVERGED\): NaN"),
        ({"device": "cuda"}, "was trained on cuda: give --device cuda"),
        ({"format": 1}, "has format 1, this version reads 2: use the version of"),
    ],
)
def test_runs_that_cannot_go_on(copy: Path, changes: dict[str, object], message: str) -> None:
    before = (copy / "checkpoint.safetensors").read_bytes()
    with pytest.raises(RunError, match=message):
        resume(changed(copy, **changes), context())
    assert (copy / "checkpoint.safetensors").read_bytes() == before


def test_a_run_that_an_older_version_began_keeps_its_decoder(runs: RunsOnDisk, copy: Path) -> None:
    spec = json.loads((copy / "run.json").read_text())["spec"]
    older = spec["preprocessing"] | {"decoder": "exact-1"}
    done = resume(changed_spec(copy, preprocessing=older), context())
    assert done.info.preprocessing.decoder == "exact-1"
    assert outcome(done) == outcome(runs.whole("hli"))


def test_crops_that_changed_are_refused(runs: RunsOnDisk, copy: Path, tmp_path: Path) -> None:
    other = write_market(tmp_path / "other", persons=8, cameras=2, each=4, seed=3)
    changed_spec(copy, target=str(other))
    with pytest.raises(RunError, match="are not those that the run began with: restore them"):
        resume(copy, context())
    changed_spec(copy, target=str(runs.site))
    resume(copy, context())


@pytest.mark.parametrize(
    "begin",
    [
        lambda runs, path: runs.pretrained(path, 1, StopAfter(0)),
        lambda runs, path: runs.adapted("daal", path, StopAfter(0)),
    ],
    ids=["pretrain", "adapt"],
)
def test_source_crops_that_changed_are_refused(
    runs: RunsOnDisk, tmp_path: Path, begin: Callable[[RunsOnDisk, Path], Run]
) -> None:
    path = tmp_path / "run"
    with pytest.raises(StoppedError):
        begin(runs, path)
    other = write_market(tmp_path / "other", persons=6, seed=3)
    changed_spec(path, sources=[str(other)])
    with pytest.raises(RunError, match="other are not those that the run began with: restore them"):
        resume(path, context())


def test_crops_are_decoded_once(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), pytest.raises(StoppedError):
        resume(copy, context(StopAfter(1)))
    assert "crops as they were decoded" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"garbage"])
def test_crops_that_were_lost_are_decoded_again(
    runs: RunsOnDisk, copy: Path, damage: bytes
) -> None:
    file = copy / "target.crops"
    before = file.read_bytes()
    file.write_bytes(damage)
    with pytest.raises(StoppedError):
        resume(copy, context(StopAfter(1)))
    assert file.read_bytes() == before
    file.unlink()
    assert outcome(resume(copy, context())) == outcome(runs.whole("hli"))


def test_body_parts_go_on_from_another_folder(
    runs: RunsOnDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of body parts and the crops were given by relative paths."""
    pytest.importorskip("onnx", reason="the parsing model is made by onnx")
    from tests.support.parsing_models import parsing_model

    parsing_model(tmp_path / "parser.onnx", takes="float", size=(32, 16))
    options = SourceOptions(
        parts="masks", parts_model="parser.onnx", upper_classes=(0, 1), lower_classes=(2,)
    )
    recipe = Recipe(
        method="source",
        options=options,
        schedule=Schedule(rounds=1, iterations=1),
        batch=BatchShape(identities=3, instances=2),
    )
    (tmp_path / "source").symlink_to(runs.source)
    monkeypatch.chdir(tmp_path)
    spec = pretrain_spec(Path("source"), backbone="resnet18", recipe=recipe)
    with pytest.raises(StoppedError):
        pretrain(spec, context(StopAfter(0)), Path("run"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert resume(tmp_path / "run", context()).info.state == "finished"


def test_a_recipe_changed_by_hand_is_refused(copy: Path) -> None:
    recipe = json.loads((copy / "run.json").read_text())["spec"]["recipe"]
    before = (copy / "checkpoint.safetensors").read_bytes()
    other = {**recipe, "optimizer": {**recipe["optimizer"], "lr": 0.5}}
    with pytest.raises(RunError, match=r"recipe in .*run\.json is not the one .*restore run\.json"):
        resume(changed_spec(copy, recipe=other), context())
    assert Run.open(copy).info.state == "stopped"
    assert (copy / "checkpoint.safetensors").read_bytes() == before
    backwards = dict(reversed(recipe.items()))
    with pytest.raises(StoppedError):
        resume(changed_spec(copy, recipe=backwards), context(StopAfter(1)))


def test_other_libraries_are_named(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    versions = json.loads((copy / "run.json").read_text())["versions"]
    changed(copy, versions=versions | {"torch": "1.0"})
    with pytest.raises(StoppedError):
        resume(copy, context(StopAfter(1)))
    assert "other versions of torch than at the start of the run" in caplog.text


def test_another_number_of_threads_is_named(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    threads = torch.get_num_threads()
    assert json.loads((copy / "run.json").read_text())["threads"] == threads
    for kept in (threads, threads + 1):
        assert "threads, the run started" not in caplog.text
        with pytest.raises(StoppedError):
            resume(changed(copy, threads=kept), context(StopAfter(1)))
    assert f"{threads} threads, the run started with {threads + 1} (OMP_NUM_THREADS)" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"garbage" * 9])
def test_a_damaged_checkpoint_is_said_so(copy: Path, damage: bytes) -> None:
    (copy / "checkpoint.safetensors").write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"is damaged .*; start the run again") as refused:
        resume(copy, context())
    Run.reopen(copy).release()  # nobody writes there, even where the error is still held
    assert refused.value
    (copy / "checkpoint.safetensors").unlink()
    with pytest.raises(CheckpointError, match="there is nothing to continue"):
        resume(copy, context())


@pytest.mark.parametrize("kind", ["network/", "optimizer/"])
def test_a_checkpoint_of_another_network_is_said_so(copy: Path, kind: str) -> None:
    file = copy / "checkpoint.safetensors"
    tensors = load_file(file)
    with safetensors.safe_open(file, "pt") as opened:
        notes = opened.metadata()
    moved = {
        name.replace("neck", "collar") if name.startswith(kind) else name: tensor
        for name, tensor in tensors.items()
    }
    assert moved.keys() != tensors.keys()
    save_file(moved, file, notes)
    with pytest.raises(CheckpointError, match=r"does not match|has other parameters"):
        resume(copy, context())


def test_a_run_that_goes_on_elsewhere_is_not_touched(copy: Path) -> None:
    running = Run.reopen(copy)
    with pytest.raises(RunError, match="a run is still writing there"):
        resume(copy, context())
    running.release()
    with pytest.raises(StoppedError):
        resume(copy, context(StopAfter(1)))


def test_a_new_run_does_not_replace_one_that_can_go_on(runs: RunsOnDisk, copy: Path) -> None:
    with pytest.raises(RunError, match=f"continue it with --resume {copy}"):
        runs.adapted("hli", copy)


def test_a_full_disk_leaves_the_last_checkpoint(runs: RunsOnDisk, tmp_path: Path) -> None:
    """No file may grow beyond what is there: the checkpoint of round 1 fits, none after it."""
    path = tmp_path / "full"
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(StoppedError):
        runs.adapted("hli", path, StopAfter(1))
    first = (path / "checkpoint.safetensors").read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(first) + 1000, unlimited[1]))
    try:
        on = rf"cannot write to .*full: .*room there, then resume it with --resume {path}$"
        with pytest.raises(RunError, match=on):
            resume(path, context())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert Run.open(path).info.reason == "RUN_FOLDER_UNWRITABLE"
    assert (path / "checkpoint.safetensors").read_bytes() == first
    assert outcome(resume(path, context())) == outcome(runs.whole("hli"))
