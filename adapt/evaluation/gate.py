"""Whether a new model should replace an old one on a site, without labels.

Each proxy of the rule compares both models on the same crops and votes; the votes decide.

    d = sign * (new - old),    interval [low, high] of d by a paired bootstrap over tracks
    vote: +1 where low > 0, -1 where high < 0, else 0;    score: sum of the votes
    promote: score >= L,    reject: score <= -L,    else hold
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.errors import ConfigError, NonFiniteFeaturesError, ZeroFeaturesError
from adapt.evaluation.bootstrap import percentile_interval, resampled_means
from adapt.evaluation.proxies.measure import PROXIES, ModelFigures, measure
from adapt.evaluation.proxies.sightings import ProxyValue, Sightings
from models.job_contract import MIN_GATE_CROPS, Verdict

RESAMPLES = 2000


@dataclass(frozen=True)
class Rule:
    """Which proxies decide, and how.

    proxies: names of `PROXIES` that vote. min_votes: L. confidence: of each interval.
    min_crops, min_groups: fewer crops, or fewer tracks and crops without one, decide nothing.
    min_spread, max_cluster_share: beyond these a model has collapsed.
    """

    proxies: tuple[str, ...]
    min_votes: int
    confidence: float = 0.95
    min_crops: int = MIN_GATE_CROPS
    min_groups: int = 30
    min_spread: float = 0.001
    max_cluster_share: float = 0.5

    def __post_init__(self) -> None:
        unknown = sorted(set(self.proxies) - set(PROXIES))
        if unknown or len(set(self.proxies)) < len(self.proxies):
            raise ConfigError(
                f"a rule's proxies are different ones of {', '.join(PROXIES)}, "
                f"not {', '.join(self.proxies)}"
            )
        if not 1 <= self.min_votes <= len(self.proxies) or not 0 < self.confidence < 1:
            raise ConfigError(
                f"a rule of {len(self.proxies)} proxies needs 1 to {len(self.proxies)} votes and "
                f"a confidence in (0, 1), not {self.min_votes} and {self.confidence}"
            )


DEFAULT_RULE = Rule(
    ("track_retrieval", "neighborhood_density", "mutual_neighbors", "silhouette"),
    min_votes=2,
)
"""The rule of `resight gate`: chosen by the experiment of docs/gate.md, over models with labels."""


@dataclass(frozen=True)
class ProxyComparison:
    """One proxy of both models.

    old, new, difference: None where the site does not allow the proxy. difference: new minus old.
    low, high: ends of its bootstrap interval; the difference itself for a figure without parts.
    measured: crops that the figures are of, of both models; where they differ, the fewer.
    voter: the rule asks this proxy. vote: +1 better, -1 worse, 0 not clear; it counts for a voter.
    """

    name: str
    old: float | None
    new: float | None
    difference: float | None
    low: float | None
    high: float | None
    voter: bool
    vote: int
    measured: int = 0


@dataclass(frozen=True)
class GateReport:
    """Verdict on a new model.

    reasons: in words. crops, groups: that were compared; groups are tracks and crops without one.
    unreadable: crops that could not be compared. not_held_back: crops that were left to training.
    comparisons: of every proxy, empty where nothing was compared.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    crops: int
    groups: int
    rule: Rule
    comparisons: tuple[ProxyComparison, ...] = ()
    unreadable: int = 0
    not_held_back: int = 0

    def to_dict(self) -> dict[str, object]:
        """What `resight gate --json` writes."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "crops": self.crops,
            "groups": self.groups,
            "unreadable": self.unreadable,
            "not_held_back": self.not_held_back,
            "confidence": self.rule.confidence,
            "min_votes": self.rule.min_votes,
            "proxies": {
                each.name: {
                    "old": each.old,
                    "new": each.new,
                    "difference": each.difference,
                    "low": each.low,
                    "high": each.high,
                    "voter": each.voter,
                    "vote": each.vote,
                    "measured": each.measured,
                }
                for each in self.comparisons
            },
        }


def compare(
    old_ND: NDArray[np.floating],
    new_NE: NDArray[np.floating],
    sightings: Sightings,
    *,
    rule: Rule = DEFAULT_RULE,
    seed: int = 0,
) -> GateReport:
    """Judge a new model beside the old one by crops of the site that neither learned from.

    Args:
        old_ND, new_NE: embeddings of the same N crops by the two models; any D and E.
        sightings: of these crops.
        rule: which proxies decide, and how.
        seed: of the resamples; same seed, same report.

    Returns:
        The verdict. A new model that collapsed is rejected: NaN, infinity or rows of zeros, all
        embeddings alike, or most crops in one cluster. A new one that did not, beside an old one
        that did, is promoted. Too few crops hold, and so do fewer voting proxies than votes needed.

    Raises:
        DataError: a matrix is not of the sightings' crops.
    """
    crops, groups = len(sightings), sightings.group_count
    why = _too_few(crops, groups, rule)
    if why:
        return GateReport("hold", (why,), crops, groups, rule)
    new, fault = _measured(new_NE, sightings, seed)
    if new is None:
        return GateReport("reject", (f"the new model: {fault}",), crops, groups, rule)
    old, old_fault = _measured(old_ND, sightings, seed)
    fault = collapse(new, rule)
    if fault:
        found = () if old is None else compare_figures(old, new, sightings, rule=rule, seed=seed)
        return GateReport("reject", (f"the new model: {fault}",), crops, groups, rule, found)
    if old is None:
        return GateReport("promote", (f"the old model: {old_fault}",), crops, groups, rule)
    found = compare_figures(old, new, sightings, rule=rule, seed=seed)
    old_fault = collapse(old, rule)
    if old_fault:
        return GateReport("promote", (f"the old model: {old_fault}",), crops, groups, rule, found)
    verdict, reasons = decide(found, rule)
    return GateReport(verdict, reasons, crops, groups, rule, found)


def collapse(figures: ModelFigures, rule: Rule) -> str:
    """Why a model has collapsed, for people; empty where it has not."""
    spread = figures.proxies["spread"]
    if spread is not None and spread.value < rule.min_spread:
        return f"all its embeddings are alike (spread {spread.value:.2g})"
    if figures.largest_cluster > rule.max_cluster_share:
        return f"one cluster holds {figures.largest_cluster:.0%} of the crops"
    return ""


def compare_figures(
    old: ModelFigures, new: ModelFigures, sightings: Sightings, *, rule: Rule, seed: int = 0
) -> tuple[ProxyComparison, ...]:
    """Compare every proxy of two models of one site, in the order of `PROXIES`."""
    return tuple(
        _comparison(name, old.proxies[name], new.proxies[name], sightings, rule, seed)
        for name in PROXIES
    )


def decide(comparisons: tuple[ProxyComparison, ...], rule: Rule) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict that the votes make, and its reasons."""
    voters = [each for each in comparisons if each.voter and each.difference is not None]
    if len(voters) < rule.min_votes:
        return "hold", (
            f"only {len(voters)} of the proxies that decide can be measured on these crops, and "
            f"{rule.min_votes} votes are needed: give crops of several cameras, with tracks "
            "and times",
        )
    score = sum(each.vote for each in voters)
    reasons = tuple(_in_words(each) for each in voters if each.vote)
    if score >= rule.min_votes:
        return "promote", reasons
    if score <= -rule.min_votes:
        return "reject", reasons
    unclear = sum(not each.vote for each in voters)
    short = (
        f"{unclear} of {len(voters)} proxies show no clear difference; the votes sum to {score:+d},"
        f" a verdict needs {rule.min_votes}"
    )
    return "hold", (*reasons, short)


def vote(low: float, high: float, sign: int) -> int:
    """+1 where an interval of new minus old says better, -1 worse, 0 where it holds 0."""
    return sign * (int(low > 0) - int(high < 0))


def _too_few(crops: int, groups: int, rule: Rule) -> str:
    if crops < rule.min_crops:
        return f"too few crops to judge by: {crops}, and {rule.min_crops} are needed"
    if groups < rule.min_groups:
        return (
            f"too few tracks and crops without a track to judge by: {groups}, and "
            f"{rule.min_groups} are needed"
        )
    return ""


def _measured(
    feature_ND: NDArray[np.floating], sightings: Sightings, seed: int
) -> tuple[ModelFigures | None, str]:
    """A model's figures, or why there are none."""
    try:
        return measure(feature_ND, sightings, seed=seed), ""
    except NonFiniteFeaturesError as error:
        return None, f"NaN or infinity in {error.rows} of its {len(sightings)} embeddings"
    except ZeroFeaturesError as error:
        return None, f"{error.rows} of its {len(sightings)} embeddings are nothing but zeros"


def _comparison(
    name: str,
    old: ProxyValue | None,
    new: ProxyValue | None,
    sightings: Sightings,
    rule: Rule,
    seed: int,
) -> ProxyComparison:
    voter = name in rule.proxies
    if old is None or new is None:
        before, after = (None if each is None else each.value for each in (old, new))
        return ProxyComparison(name, before, after, None, None, None, voter, 0)
    difference = new.value - old.value
    low, high = _interval(old, new, sightings, rule.confidence, seed)
    cast = vote(low, high, PROXIES[name].sign)
    measured = min(old.measured, new.measured)
    return ProxyComparison(name, old.value, new.value, difference, low, high, voter, cast, measured)


def _interval(
    old: ProxyValue, new: ProxyValue, sightings: Sightings, confidence: float, seed: int
) -> tuple[float, float]:
    """Of new minus old."""
    if old.part is None or new.part is None or new.row is None:
        difference = new.value - old.value
        return difference, difference
    gain = (new.part - old.part)[:, None]
    means = resampled_means(
        gain, sightings.groups[new.row], rng=np.random.default_rng(seed), resamples=RESAMPLES
    )
    return percentile_interval(means[:, 0], confidence)


def _in_words(each: ProxyComparison) -> str:
    better = "better" if each.vote > 0 else "worse"
    return (
        f"{better}: {PROXIES[each.name].title}, {each.old:.3f} to {each.new:.3f} "
        f"({each.difference:+.3f}, {each.low:+.3f} to {each.high:+.3f})"
    )
