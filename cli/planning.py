"""The text of `resight adapt --plan`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from adapt.types import UNTRACKED
from cli.common import plural

if TYPE_CHECKING:
    from adapt.types import CropSet
    from adapt.workflows.plan import AdaptationPlan, Disk, Memory

_NAMED_CAMERAS = 12


def plan_text(plan: AdaptationPlan) -> str:
    """A line for each question that somebody asks before hours are spent."""
    recipe, size, batch = plan.recipe, plan.preprocessing, plan.recipe.batch
    rounds, seconds = recipe.schedule.rounds, plan.seconds
    lines = {
        "crops": _crops(plan.crops),
        "cameras": _cameras(plan.crops),
        "tracks": _tracks(plan.crops),
        "source": plural(plan.source_crops, "labelled crop") if plan.source_crops else "",
        "networks": f"{plan.backbone} at {size.height}x{size.width}: {', '.join(plan.networks)}; "
        f"{plan.trained} trained",
        "batches": f"{plural(batch.size, 'crop')} ({batch.identities} x {batch.instances}), "
        f"{plural(plan.views, 'view')} of each",
        "rounds": f"{rounds} x {_steps(plan)}",
        "time": f"about {duration(plan.total_seconds)} on {plan.device}; a round: "
        f"extract {duration(seconds.extract)}, label {duration(seconds.label)}, "
        f"train {duration(seconds.train)}"
        + (f", score {duration(seconds.scoring)}" if seconds.scoring else ""),
        "memory": _memory(plan.memory),
        "disk": _disk(plan.disk),
    }
    width = max(map(len, lines))
    heading = f"{recipe.method} on {plan.crops.root}: a plan, nothing is written"
    return "\n".join([heading, *(f"  {n:<{width}}  {text}" for n, text in lines.items() if text)])


def duration(seconds: float) -> str:
    """In the two largest units that matter: 40 s, 12 min, 5 h 20 min, 3 d 4 h."""
    if seconds < 1:
        return "1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(hours + minutes / 60), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def amount(size: int) -> str:
    """Bytes in MB or GB, powers of ten."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _crops(crops: CropSet) -> str:
    unreadable = sum(drop.image for drop in crops.dropped)
    others = len(crops.dropped) - unreadable
    left_out = {
        "held back": crops.held_back,
        "thinned": crops.thinned,
        "cannot be read": unreadable,
        "not listed": len(crops.unlisted),
        "other file" if others == 1 else "other files": others,
    }
    parts = [f"{count} {why}" for why, count in left_out.items() if count]
    return f"{len(crops)}" + (f" (left out: {', '.join(parts)})" if parts else "")


def _cameras(crops: CropSet) -> str:
    counts = Counter(crops.camera_codes.tolist())
    named = [f"{name} {counts[code]}" for code, name in enumerate(crops.cameras)]
    more = ", ..." if len(named) > _NAMED_CAMERAS else ""
    return f"{len(named)}: {', '.join(named[:_NAMED_CAMERAS])}{more}"


def _tracks(crops: CropSet) -> str:
    counts = Counter(crops.tracks.tolist())
    alone = counts.pop(UNTRACKED, 0)
    if not counts:
        return ""
    return f"{len(counts)}, and {plural(alone, 'crop')} without" if alone else f"{len(counts)}"


def _steps(plan: AdaptationPlan) -> str:
    passes = plan.recipe.schedule.passes
    if not passes:
        return plural(plan.steps, "step")
    steps, clusters = plural(plan.steps, "step"), plural(plan.clusters, "cluster")
    return f"about {steps} ({plural(passes, 'pass', 'passes')}; {clusters} supposed)"


def _memory(memory: Memory) -> str:
    parts = {
        "networks": memory.networks,
        "gradients and optimizer": memory.training,
        "a step": memory.activations,
        "labelling": memory.labelling,
    }
    shown = ", ".join(f"{name} {amount(size)}" for name, size in parts.items())
    if memory.device is None:
        return f"about {amount(memory.host)}: {shown}, the rest libraries and workspace"
    return f"about {amount(memory.host)}, and {amount(memory.device)} on the GPU: {shown}"


def _disk(disk: Disk) -> str:
    return (
        f"about {amount(disk.all)} while it runs: decoded crops {amount(disk.crops)}, embeddings "
        f"{amount(disk.embeddings)}, checkpoints {amount(disk.checkpoints)}"
    )
