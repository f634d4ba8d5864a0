"""A network that others trained becomes a run folder that all commands read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import ConfigError, RunError  # noqa: E402
from adapt.recipes import load_recipe  # noqa: E402
from adapt.report.material import gather  # noqa: E402
from adapt.runs.folder import FolderUse, Run  # noqa: E402
from adapt.runs.info import Origin  # noqa: E402
from adapt.runs.listing import compare_runs, describe_run  # noqa: E402
from adapt.workflows.adapt import adapt  # noqa: E402
from adapt.workflows.import_weights import import_weights  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from models.errors import BackboneError, WeightsError  # noqa: E402
from tests.support.specs import CPU, SHORT, SIZE, adapt_spec, import_spec, on_cpu  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

BACKBONE = "resnet18_ibn_a"
KMEANS = ("clustering.algorithm=kmeans", "clustering.clusters=4")


def trained(path: Path, *, neck: bool = True, seed: int = 1) -> ReIDNet:
    """A network whose neck has learned, too, saved as reid-strong-baseline saves it."""
    torch.manual_seed(seed)
    net = ReIDNet(BACKBONE)
    for parameter in net.neck.buffers():
        if parameter.is_floating_point():
            parameter.uniform_(0.5, 1.5)
    parts = {"backbone.": "base.", "neck.": "bottleneck."}
    state = {
        name.replace(ours, theirs, 1): tensor
        for name, tensor in net.state_dict().items()
        for ours, theirs in parts.items()
        if name.startswith(ours) and (neck or ours != "neck.")
    }
    torch.save({"model": state, "epoch": 120}, path)
    return net.eval()


def test_the_network_of_the_file_is_kept_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = trained(tmp_path / "theirs.pth")
    run = Run.open(import_weights(import_spec(tmp_path / "theirs.pth"), tmp_path / "run").path)
    images = torch.rand(2, 3, SIZE.height, SIZE.width)
    with torch.no_grad():
        assert torch.equal(run.network().embed(images), net.embed(images))
    info = run.info
    assert (info.state, info.kind, info.method, info.rounds) == ("finished", "import", "import", 0)
    content = (tmp_path / "theirs.pth").read_bytes()
    assert info.origin == Origin(weights=hashlib.sha256(content).hexdigest())
    assert info.data == ()
    assert run.use is FolderUse.REUSE
    line = describe_run(run.path, "run")
    assert (line.state, line.method, line.rounds, line.planned) == ("finished", "import", 0, 0)
    assert "no neck" not in caplog.text


def test_a_file_without_a_neck_is_said_to_have_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path / "theirs.pth", neck=False)
    import_weights(import_spec(tmp_path / "theirs.pth"), tmp_path / "run")
    assert "the file has no neck for this network" in caplog.text


def test_it_is_adapted(market: Callable[..., Path], tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        trained(tmp_path / f"{seed}.pth", seed=seed)
        runs.append(import_weights(import_spec(tmp_path / f"{seed}.pth"), tmp_path / f"run{seed}"))
    recipe = load_recipe("mmt_small", method="mmt", overrides=(*SHORT, *KMEANS))
    inits = [run.path for run in runs]
    adapted = adapt(adapt_spec(market("site"), inits, recipe), on_cpu(), tmp_path / "adapted")
    assert adapted.info.origin.inits == tuple(run.network_hash() for run in runs)
    settings = compare_runs([*inits, adapted.path]).settings
    assert settings["recipe"] == ("import", "import", "test")
    assert settings["optimizer.lr"][:2] == (None, None)


def test_what_is_no_import_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "theirs.pth")
    run = import_weights(import_spec(tmp_path / "theirs.pth"), tmp_path / "run")
    with pytest.raises(ConfigError, match="is a run folder already"):
        import_weights(import_spec(run.path), tmp_path / "again")
    with pytest.raises(RunError, match="not empty"):
        import_weights(import_spec(tmp_path / "theirs.pth"), run.path)
    with pytest.raises(WeightsError, match="not the state dict of osnet_x0_25"):
        import_weights(import_spec(tmp_path / "theirs.pth", backbone="osnet_x0_25"), tmp_path / "o")
    small = SIZE.model_copy(update={"height": 2, "width": 2})
    with pytest.raises(BackboneError, match="2x2"):
        import_weights(import_spec(tmp_path / "theirs.pth", preprocessing=small), tmp_path / "s")
    with pytest.raises(ConfigError, match="needs weights"):
        import_spec("")
    with pytest.raises(ConfigError, match="takes no sources"):
        import_spec("theirs.pth", sources=(tmp_path,))
    assert not any((tmp_path / name).exists() for name in ("again", "o", "s"))


@pytest.mark.parametrize(
    ("tensors", "value", "what"),
    [
        ({"neck.weight"}, 0.0, "NaN, infinity or zero vectors"),
        ({"neck.running_mean"}, 3e38, "NaN, infinity or zero vectors"),
        ({"backbone.conv1.weight"}, 0.0, "different images the same vector"),
    ],
)
def test_a_network_without_an_embedding_is_refused(
    tensors: set[str], value: float, what: str, tmp_path: Path
) -> None:
    state = trained(tmp_path / "theirs.pth").state_dict()
    for name in tensors:
        state[name].fill_(value)
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(WeightsError, match=what):
        import_weights(import_spec(tmp_path / "broken.pth"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_our_own_names_come_with_their_neck(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = trained(tmp_path / "theirs.pth")
    net.reset_classifier(5)
    torch.save(net.state_dict(), tmp_path / "ours.pth")
    run = import_weights(import_spec(tmp_path / "ours.pth"), tmp_path / "run")
    images = torch.rand(2, 3, SIZE.height, SIZE.width)
    with torch.no_grad():
        assert torch.equal(run.network().embed(images), net.embed(images))
    assert "no neck" not in caplog.text


def test_there_is_nothing_to_report(tmp_path: Path) -> None:
    trained(tmp_path / "theirs.pth")
    run = import_weights(import_spec(tmp_path / "theirs.pth"), tmp_path / "run")
    with pytest.raises(ConfigError, match="there was no training to report on"):
        gather(run, None, None, CPU)
