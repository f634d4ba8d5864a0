"""Memory, blocking and refusals of the server under attack.

    python -m benchmarks.pressure --scale 0.05 --out FOLDER              all attacks, small
    python -m benchmarks.pressure answers arrivals --out FOLDER          two of them, whole
    python -m benchmarks.pressure --code CHECKOUT --out FOLDER           another checkout's server

Each attack meets a fresh `resight serve` with a network from random numbers. Beside it another
client calls GetSite and enrolls a crop, always the same one, 20 times a second each. Attackers run
at low priority, as in the field they have machines of their own. FOLDER gets results.json,
results.md and the logs of the servers.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.pressure.attacks import ATTACKS
from benchmarks.pressure.bundles import write_models
from benchmarks.pressure.rows import Row, as_json, markdown, rows_of
from benchmarks.pressure.setting import Setting
from benchmarks.pressure.trial import Attack, measure

ROOT = Path(__file__).parents[2]
LIBRARIES = ("grpcio", "protobuf", "onnxruntime", "faiss-cpu", "SQLAlchemy", "numpy")


def main(arguments: list[str] | None = None) -> int:
    """Attack, print each figure, write the results; 1 if a target is not met."""
    given = _parser().parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        setting = Setting(
            *(Path(name), given.code.resolve(), given.scale, given.seconds, given.settle),
            minutes=given.minutes,
            seed=given.seed,
            backbone=given.backbone,
        )
        write_models(setting.folder / "registry", setting.folder, given.backbone, given.seed)
        rows: list[Row] = []
        reasons: dict[str, dict[str, int]] = {}
        for attack in given.attacks or ATTACKS:
            found = [
                measure(attack, setting, setting.folder / name, given.out / f"{name}.log")
                for name in (f"{attack.name}-{repeat}" for repeat in range(given.repeat))
            ]
            new = rows_of(attack, found)
            print("\n".join(row.line() for row in new), flush=True)
            rows += new
            reasons[attack.name] = dict(sum((each.reasons for each in found), Counter()))
            about = _about(setting, given.repeat)
            (given.out / "results.json").write_text(as_json(about, rows, reasons))
            (given.out / "results.md").write_text(markdown(about, rows, reasons))
    missed = [row for row in rows if row.verdict == "not met"]
    print(f"{len(missed)} targets not met; results in {given.out}")
    return 1 if missed else 0


def _about(setting: Setting, repeat: int) -> dict[str, Any]:
    """What the figures depend on."""
    commit = subprocess.run(
        ["git", "-C", str(setting.code), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{memory / 1e9:.0f} GB, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "scale": setting.scale,
        "seconds of an attack": setting.seconds,
        "seconds at rest before and after": setting.settle_s,
        "minutes of the mixed attack": setting.minutes,
        "repeats": repeat,
        "seed": setting.seed,
        "network": setting.backbone,
    }


def _attack(name: str) -> Attack:
    found = {attack.name: attack for attack in ATTACKS}
    if name not in found:
        raise argparse.ArgumentTypeError(f"{name!r} is not an attack; give {', '.join(found)}")
    return found[name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pressure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("attacks", nargs="*", type=_attack, metavar="ATTACK", help="all if none is given")
    add("--out", type=Path, required=True, help="folder of the results")
    add("--scale", type=float, default=1.0, help="factor of all sizes")
    add("--repeat", type=int, default=1, help="times that each attack is made")
    add("--seconds", type=float, default=20.0, help="of an attack without an end of its own")
    add("--settle", type=float, default=30.0, help="seconds before and after it at rest")
    add("--minutes", type=float, default=30.0, help="of the mixed attack")
    add("--seed", type=int, default=1)
    add("--backbone", default="resnet18", help="network of both models")
    add("--code", type=Path, default=ROOT, help="checkout whose server is attacked")
    add("--folder", type=Path, help="for what is written and removed again")
    return parser


if __name__ == "__main__":
    # An exception, so that the server ends, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    sys.exit(main())
