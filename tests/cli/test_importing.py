"""The command `import` reaches what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="a network is made")

from adapt.runs.folder import Run  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from models.image import Preprocessing  # noqa: E402
from tests.support.command_line import resight  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")


def test_options_reach_the_run_folder(tmp_path: Path) -> None:
    torch.save(ReIDNet("mobilenet_v2").state_dict(), tmp_path / "theirs.pth")
    done = resight(
        *("import", "--weights", tmp_path / "theirs.pth", "--backbone", "mobilenet_v2"),
        *("--height", 64, "--width", 32, "--interpolation", "linear", "--out", tmp_path / "run"),
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'run'}\n")
    assert done.stderr.splitlines()[-1] == "imported mobilenet_v2:"
    info = Run.open(tmp_path / "run").info
    assert info.preprocessing == Preprocessing(height=64, width=32, interpolation="linear")
    assert info.spec.weights == str(tmp_path / "theirs.pth")
    shown = resight("runs", "list", tmp_path).stdout
    assert [line.split()[:5] for line in shown.splitlines()[1:]] == [
        ["run", "finished", "import", "import", "0"]
    ]
    again = resight("pretrain", "--resume", tmp_path / "run")
    assert "there is no training to resume" in again.stderr
