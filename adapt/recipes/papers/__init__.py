"""The papers' tasks: what each published, and the recipes that ought to reach it. One file each.

A task is a source, a target, a backbone and, where the paper tried several, a number of clusters.
docs/recipes.md explains the fields.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapt.data.catalog.known_sets import SetName
from adapt.errors import ConfigError
from models.backbones.trunks import BACKBONES
from models.validation import explain

Percent = Annotated[float, Field(ge=0, le=100)]


class _PaperRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageRecipe(_PaperRecord):
    """A recipe that comes with resight, and what it is changed to (`--set` of that stage)."""

    recipe: str
    set: tuple[str, ...] = ()


class Figures(_PaperRecord):
    """A row of a table in a paper, in per cent; None where the paper has no such column."""

    table: int = Field(ge=1)
    source: SetName
    target: SetName
    backbone: str
    mAP: Percent  # noqa: N815 - the field's name for it
    top1: Percent
    top5: Percent | None = None
    top10: Percent | None = None

    @model_validator(mode="after")
    def _possible(self) -> Figures:
        if self.source == self.target:
            raise ValueError("source and target are the same set")
        if self.backbone not in BACKBONES:
            raise ValueError(f"no backbone {self.backbone!r}")
        tops = [top for top in (self.top1, self.top5, self.top10) if top is not None]
        if tops != sorted(tops):
            raise ValueError("top1, top5 and top10 must not fall")
        return self


class Task(Figures):
    """An adaptation that the paper reports.

    clusters: K of k-means, where it was set by hand. set: what else this task changes in the
    recipe of its adaptation.
    """

    clusters: int | None = Field(None, ge=2)
    set: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[str, ...]:
        """`set` with the number of clusters."""
        clusters = () if self.clusters is None else (f"clustering.clusters={self.clusters}",)
        return (*clusters, *self.set)

    @property
    def name(self) -> str:
        """Without the paper's name."""
        clusters = "" if self.clusters is None else f"-{self.clusters}"
        return f"{self.source}-{self.target}-{self.backbone}{clusters}"


class Paper(_PaperRecord):
    """A file of this folder; its name is the method's.

    citation, note: for people; note is on how its figures were made. height, width: of the input.
    pretrain, adapt: the two stages. unadapted: figures of its source networks on the target.
    """

    citation: str
    note: str = ""
    height: int = Field(256, ge=8)
    width: int = Field(128, ge=8)
    pretrain: StageRecipe = StageRecipe(recipe="source")
    adapt: StageRecipe
    unadapted: tuple[Figures, ...] = ()
    task: tuple[Task, ...]

    @model_validator(mode="after")
    def _one_row_each(self) -> Paper:
        for rows in ([t.name for t in self.task], ["-".join(_pair(r)) for r in self.unadapted]):
            twice = sorted({row for row in rows if rows.count(row) > 1})
            if twice:
                raise ValueError(f"two rows for {', '.join(twice)}")
        return self

    def unadapted_for(self, task: Task) -> Figures | None:
        """What the paper reports of its source networks on a task's target."""
        return next((row for row in self.unadapted if _pair(row) == _pair(task)), None)


def paper_names() -> list[str]:
    """Papers whose figures are here."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".toml")
    )


def load_paper(name: str) -> Paper:
    """Read one of `paper_names`. Raises ConfigError when its file is invalid."""
    try:
        text = files(__name__).joinpath(f"{name}.toml").read_text()
        return Paper.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"papers/{name}.toml is not valid TOML: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"papers/{name}.toml: {explain(error, Paper)}") from None


def task_names() -> list[str]:
    """Every task, as `PAPER-SOURCE-TARGET-BACKBONE[-CLUSTERS]`."""
    return [name for name, _ in describe_tasks()]


def describe_tasks() -> list[tuple[str, str]]:
    """Name and published figures of every task."""
    found = []
    for name in paper_names():
        paper = load_paper(name)
        found += [(f"{name}-{t.name}", f"mAP {t.mAP}, top-1 {t.top1}") for t in paper.task]
    return found


def find_task(name: str) -> tuple[str, Paper, Task]:
    """The paper's name, the paper and the task behind one of `task_names`.

    Raises ConfigError when there is none of that name.
    """
    paper_name, _, rest = name.partition("-")
    if paper_name in paper_names():
        paper = load_paper(paper_name)
        for task in paper.task:
            if task.name == rest:
                return paper_name, paper, task
        known = ", ".join(f"{paper_name}-{task.name}" for task in paper.task)
    else:
        known = f"tasks of {', '.join(paper_names())}, such as {task_names()[0]}"
    raise ConfigError(f"no task {name!r}; there are: {known}")


def _pair(row: Figures) -> tuple[str, str, str]:
    return row.source, row.target, row.backbone
