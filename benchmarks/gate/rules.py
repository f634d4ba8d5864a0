"""Part `choose`: what each proxy is worth, and the rule that two models are best told apart by.

Shape suffixes: M models of a site, ordered; pairs (old, new) are (M, M).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from adapt.evaluation.bootstrap import resampled_means
from adapt.evaluation.gate import RESAMPLES, Rule, collapse
from adapt.evaluation.proxies.measure import PROXIES
from benchmarks.gate.measuring import SiteResult
from benchmarks.gate.networks import NetworkStage

MAX_PROXIES = 5
"""Of a rule: more are hard to explain, and fit the sites they were chosen on."""

MIN_VOTES = 2
"""Of a rule: no figure decides alone, since a method may move it without a better model."""

BETA = 0.5
"""Of the F-measure that rules are chosen by: precision counts more than recall, since a model that
is wrongly promoted harms, and one that is wrongly held can be adapted again."""


Asked = Literal["all", "replacing", "first", "next"]
"""Which pairs are looked at. all: every ordered pair of a site's models. replacing: the new model
is the end of a run, the old one is a source network or another end and has not collapsed: what a
gate is asked. first: of these, those whose old model is a source network. next: the others."""

CHOSEN_BY: Asked = "replacing"
"""What rules are chosen by."""

WITHOUT_INTERVAL = ("agreement", "effective_rank")
"""Proxies that are not means: every difference of theirs votes, so no rule is made of them."""


ONE_WITNESS = ("silhouette", "clustered", "cross_camera", "stability")
"""Proxies of one clustering: a rule has at most one of them, or two votes could be one mistake."""

TOLERANCE = 0.02
"""Of the mean F-measure: rules this close to the best count as equally good, since so small a lead
belongs to these sites; the least harmful of them is chosen."""


@dataclass(frozen=True)
class Votes:
    """All that a site's models say of each other.

    of: by proxy, (M, M) int8 vote for new (column) against old (row), 0 where one of them was not
    measured; without proxies that the site does not allow. collapsed: (M,).
    """

    of: Mapping[str, NDArray[np.int8]]
    collapsed: NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """How often a rule is right on the ordered pairs of a site.

    promoted: pairs. better: pairs whose new model is better by more than the margin. right: pairs
    that are both. harmful: promoted pairs whose new model is worse by more than the margin.
    """

    promoted: int
    better: int
    right: int
    harmful: int

    @property
    def precision(self) -> float:
        """Of those promoted, how many are better; nan where none is promoted."""
        return self.right / self.promoted if self.promoted else math.nan

    @property
    def recall(self) -> float:
        """Of those that are better, how many are promoted; nan where none is better."""
        return self.right / self.better if self.better else math.nan

    @property
    def harm(self) -> float:
        """Harmful promotions for each pair that should be promoted; nan where none should."""
        return self.harmful / self.better if self.better else math.nan

    @property
    def f_measure(self) -> float:
        """(1 + b^2) P R / (b^2 P + R) with b = 0.5; 0 where nothing is right (van Rijsbergen)."""
        if not self.right:
            return 0.0
        p, r = self.precision, self.recall
        return (1 + BETA**2) * p * r / (BETA**2 * p + r)


def correlation(site: SiteResult, proxy: str, protocol: str) -> float:
    """Spearman correlation of sign * proxy with true mAP over a site's models; nan if unknown."""
    measured = [model.figures.proxies[proxy] for model in site.models]
    pairs = [
        (PROXIES[proxy].sign * each.value, model.scores[protocol])
        for each, model in zip(measured, site.models, strict=True)
        if each is not None
    ]
    if len(pairs) < 3 or any(len(set(values)) < 2 for values in zip(*pairs, strict=True)):
        return math.nan
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def votes_of(site: SiteResult, rule: Rule, *, seed: int = 0) -> Votes:
    """Compare each two models of a site as `adapt.evaluation.gate` does, by each proxy.

    rule: its confidence and its limits of a collapse are used.
    """
    count = len(site.models)
    found = {}
    for names, models, rows in _measured_alike(site):
        means = _means(site, names, models, rows, seed)
        for name, mean_RM in zip(names, means, strict=True):
            clear = np.zeros((count, count), np.int8)
            clear[np.ix_(models, models)] = _clear_differences(mean_RM, rule.confidence)
            found[name] = PROXIES[name].sign * clear
    collapsed = np.array([bool(collapse(model.figures, rule)) for model in site.models], bool)
    return Votes(found, collapsed)


Rows = NDArray[np.int64] | None


def _measured_alike(site: SiteResult) -> Iterator[tuple[list[str], list[int], Rows]]:
    """Proxies of the same crops, with the models that have them: one draw serves them all."""
    alike: dict[tuple[tuple[int, ...], bytes], tuple[list[str], list[int], Rows]] = {}
    for name in PROXIES:
        measured = [model.figures.proxies[name] for model in site.models]
        models = [i for i, each in enumerate(measured) if each is not None]
        if models:
            first = measured[models[0]]
            rows = None if first is None else first.row
            key = (tuple(models), b"" if rows is None else rows.tobytes())
            alike.setdefault(key, ([], models, rows))[0].append(name)
    yield from alike.values()


def _means(
    site: SiteResult, names: Sequence[str], models: Sequence[int], rows: Rows, seed: int
) -> Iterator[NDArray[np.float64]]:
    """(R, M) means of the resamples, paired, for each proxy; a row of values without parts."""
    figures = [site.models[i].figures.proxies for i in models]
    measured = [[each for of in figures if (each := of[name]) is not None] for name in names]
    if rows is None:
        yield from (np.array([[each.value for each in own]]) for own in measured)
        return
    parts = [each.part for own in measured for each in own if each.part is not None]
    rng = np.random.default_rng(seed)
    means = resampled_means(
        np.stack(parts, axis=1), site.groups[rows], rng=rng, resamples=RESAMPLES
    )
    yield from np.split(means, len(names), axis=1)


def _clear_differences(mean_RM: NDArray[np.float64], confidence: float) -> NDArray[np.int8]:
    """(M, M) +1 where the interval of new (column) minus old (row) is above 0, -1 below."""
    tail = (1 - confidence) / 2
    count = mean_RM.shape[1]
    found = np.zeros((count, count), np.int8)
    for old in range(count - 1):
        later = mean_RM[:, old + 1 :] - mean_RM[:, [old]]
        low, high = np.quantile(later, [tail, 1 - tail], axis=0)
        found[old, old + 1 :] = (low > 0).astype(np.int8) - (high < 0)
    return found - found.T


def scores_of(votes: Votes, proxies: Sequence[str]) -> NDArray[np.int64]:
    """(M, M) sum of the votes for new (column) against old (row)."""
    score = np.zeros((len(votes.collapsed),) * 2, np.int64)
    for name in proxies:
        if name in votes.of:
            score += votes.of[name]
    return score


def promotions(votes: Votes, proxies: Sequence[str], min_votes: int) -> NDArray[np.bool_]:
    """(M, M) pairs (old, new) that a rule promotes."""
    promoted = (scores_of(votes, proxies) >= min_votes) | votes.collapsed[:, None]
    promoted[:, votes.collapsed] = False
    np.fill_diagonal(promoted, False)
    return promoted


def rejections(votes: Votes, proxies: Sequence[str], min_votes: int) -> NDArray[np.bool_]:
    """(M, M) pairs (old, new) that a rule rejects."""
    rejected = (scores_of(votes, proxies) <= -min_votes) & ~votes.collapsed[:, None]
    rejected[:, votes.collapsed] = True
    np.fill_diagonal(rejected, False)
    return rejected


def pairs_asked(
    stages: Sequence[NetworkStage], collapsed: NDArray[np.bool_], asked: Asked
) -> NDArray[np.bool_]:
    """(M, M) pairs (old, new) to look at."""
    count = len(stages)
    wanted = np.ones((count, count), bool)
    if asked != "all":
        source, end = (np.array([each == stage for each in stages]) for stage in ("source", "last"))
        old = {"first": source, "next": end, "replacing": source | end}[asked]
        wanted = (old & ~collapsed)[:, None] & end[None, :]
    np.fill_diagonal(wanted, False)
    return wanted


def judge(
    promoted: NDArray[np.bool_],
    true_M: NDArray[np.float64],
    margin: float,
    wanted: NDArray[np.bool_],
) -> Judged:
    """Compare promotions (M, M) with what the labels say, over the pairs wanted."""
    gain = true_M[None, :] - true_M[:, None]
    better, worse = (gain > margin) & wanted, (gain < -margin) & wanted
    return Judged(
        int((promoted & wanted).sum()),
        int(better.sum()),
        int((promoted & better).sum()),
        int((promoted & worse).sum()),
    )


@dataclass(frozen=True)
class Candidate:
    """A rule that may be chosen."""

    proxies: tuple[str, ...]
    min_votes: int

    def __str__(self) -> str:
        return f"{self.min_votes} of {', '.join(self.proxies)}"


def candidates(proxies: Sequence[str]) -> Iterator[Candidate]:
    """Every rule of up to `MAX_PROXIES` proxies and `MIN_VOTES` votes or more."""
    for size in range(MIN_VOTES, MAX_PROXIES + 1):
        for chosen in combinations(proxies, size):
            if len(set(chosen) & set(ONE_WITNESS)) > 1:
                continue
            for least in range(MIN_VOTES, size + 1):
                yield Candidate(chosen, least)


@dataclass(frozen=True)
class Case:
    """A site as rules are tried on it. true: (M,) mAP. stages: of the M models."""

    name: str
    kind: str
    votes: Votes
    true: NDArray[np.float64]
    stages: tuple[NetworkStage, ...]

    def judge(self, rule: Candidate, margin: float, asked: Asked) -> Judged:
        """How often the rule is right here."""
        promoted = promotions(self.votes, rule.proxies, rule.min_votes)
        wanted = pairs_asked(self.stages, self.votes.collapsed, asked)
        return judge(promoted, self.true, margin, wanted)


Tried = Mapping[Candidate, Sequence[Judged]]
"""What each rule does on each of some cases, in their order."""


def try_rules(cases: Sequence[Case], margin: float, asked: Asked) -> Tried:
    """Every rule of the proxies that some of the cases allow."""
    known = [name for name in PROXIES if any(name in case.votes.of for case in cases)]
    return {
        rule: [case.judge(rule, margin, asked) for case in cases]
        for rule in candidates([name for name in known if name not in WITHOUT_INTERVAL])
    }


def choose(cases: Sequence[Case], tried: Tried, without: str = "") -> Candidate | None:
    """The least harmful of the rules whose mean F-measure is within `TOLERANCE` of the highest.

    F-measure and harm are means over the kinds of sites of the mean over a kind's sites: many
    sites of one kind have one say. Of equally harmful rules the one of fewest proxies, then of the
    higher F-measure. A site where no pair is better has no say.

    Args:
        cases: the sites.
        tried: of `try_rules` on these.
        without: kind that has no say.

    Returns:
        None where no site is left.
    """
    rules = list(tried)
    own = [i for i, case in enumerate(cases) if case.kind != without and tried[rules[0]][i].better]
    if not own:
        return None
    kept = [cases[i] for i in own]
    f, harm = (
        {
            rule: mean_over_kinds(kept, [getattr(tried[rule][i], figure) for i in own])
            for rule in rules
        }
        for figure in ("f_measure", "harm")
    )
    least = max(f.values()) - TOLERANCE
    near = [rule for rule in rules if f[rule] >= least]
    return min(near, key=lambda rule: (round(harm[rule], 6), len(rule.proxies), -f[rule]))


def mean_over_kinds(cases: Sequence[Case], values: Sequence[float]) -> float:
    """Mean over kinds of the mean over their sites; nan without sites."""
    by_kind: dict[str, list[float]] = {}
    for case, value in zip(cases, values, strict=True):
        by_kind.setdefault(case.kind, []).append(value)
    return float(np.mean([np.mean(each) for each in by_kind.values()])) if by_kind else math.nan


def leave_one_out(cases: Sequence[Case], tried: Tried) -> dict[str, Candidate]:
    """By kind: the rule that the other kinds choose; without kinds whose others choose none."""
    kinds = dict.fromkeys(case.kind for case in cases)
    chosen = {kind: choose(cases, tried, without=kind) for kind in kinds}
    return {kind: rule for kind, rule in chosen.items() if rule is not None}
