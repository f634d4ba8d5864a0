from __future__ import annotations

import sys
from typing import Any

import pytest

from cli.entry import main
from cli.main import INTERRUPTED


class Interrupted:
    """An importer; Ctrl-C comes while it looks for the commands."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "cli.main":
            raise KeyboardInterrupt


def test_ctrl_c_while_the_commands_are_imported_is_130_and_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == INTERRUPTED
    assert capsys.readouterr() == ("", "interrupted\n")


def test_the_entry_runs_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["resight", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("resight ")
