"""The four terms of a student and its teacher: by hand, as properties, by reference, pinned."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.losses.mutual import (
    MutualTerms,
    active_triplets,
    mutual_terms,
    mutual_weights,
)
from models.backbones.net import NetOutput


def output(seed: int, rows: int = 6, classes: int = 3) -> NetOutput:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    neck = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return NetOutput(pooled, neck, logits)


LABEL = torch.tensor([0, 0, 1, 1, 2, 2])


def reference(student: NetOutput, teacher: NetOutput, label: torch.Tensor, smoothing: float):  # type: ignore[no-untyped-def]
    """The four equations as printed, image by image."""
    assert student.logits is not None
    assert teacher.logits is not None
    size, classes = student.logits.shape
    total = dict.fromkeys(MutualTerms._fields, 0.0)
    for i in range(size):
        p = student.logits[i].softmax(0).tolist()
        q = teacher.logits[i].softmax(0).tolist()
        for k in range(classes):
            hard = (1 - smoothing) * (k == int(label[i])) + smoothing / classes
            total["id"] -= hard * math.log(p[k]) / size
            total["soft_id"] -= q[k] * math.log(p[k]) / size
        d = [math.dist(student.pooled[i].tolist(), student.pooled[j].tolist()) for j in range(size)]
        t = [math.dist(teacher.pooled[i].tolist(), teacher.pooled[j].tolist()) for j in range(size)]
        far = max((j for j in range(size) if j != i and label[j] == label[i]), key=lambda j: d[j])
        near = min((j for j in range(size) if label[j] != label[i]), key=lambda j: d[j])
        mine = math.exp(d[near]) / (math.exp(d[far]) + math.exp(d[near]))
        soft = math.exp(t[near]) / (math.exp(t[far]) + math.exp(t[near]))
        total["tri"] -= math.log(mine) / size
        total["soft_tri"] -= (soft * math.log(mine) + (1 - soft) * math.log(1 - mine)) / size
    return total


def test_three_samples_by_hand() -> None:
    # Points 0, 1 and 3 on a line, the first two of one person; the teacher sees 0, 2 and 2.
    unread = torch.full((3, 1), torch.nan)  # after the neck
    student = NetOutput(torch.tensor([[0.0], [1.0], [3.0]]), unread, torch.zeros(3, 2))
    seen = torch.tensor([[0.0], [2.0], [2.0]])
    teacher = NetOutput(seen, unread, torch.tensor([[5.0, -5.0]] * 3))
    terms = mutual_terms(student, teacher, torch.tensor([0, 0, 1]), 0.0)
    assert float(terms.id) == pytest.approx(math.log(2))
    assert float(terms.soft_id) == pytest.approx(math.log(2))
    gaps = (1 - 3, 1 - 2, 0 - 2)  # d_ap - d_an
    hard = [math.log1p(math.exp(gap)) for gap in gaps]
    assert float(terms.tri) == pytest.approx(sum(hard) / 3, abs=1e-6)
    sure = (0.5, 1 / (1 + math.exp(2)), 0.5)  # the teacher's d_an - d_ap: 0, -2, 0
    soft = [t * h + (1 - t) * (h - gap) for t, h, gap in zip(sure, hard, gaps, strict=True)]
    assert float(terms.soft_tri) == pytest.approx(sum(soft) / 3, abs=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), smoothing=st.floats(0, 0.9))
def test_equal_to_the_reference(seed: int, smoothing: float) -> None:
    student, teacher = output(seed), output(seed + 1)
    terms = mutual_terms(student, teacher, LABEL, smoothing)._asdict()
    for name, value in reference(student, teacher, LABEL, smoothing).items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-9), name


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_hard_terms_are_the_students_alone_and_soft_ones_do_not_move_the_teacher(seed: int) -> None:
    student, teacher = output(seed), output(seed + 1)
    assert teacher.logits is not None
    for tensor in (student.pooled, student.logits, teacher.pooled, teacher.logits):
        assert tensor is not None
        tensor.requires_grad_()
    terms = mutual_terms(student, teacher, LABEL, 0.1)
    other = mutual_terms(student, output(seed + 2), LABEL, 0.1)
    assert (terms.id, terms.tri) == (other.id, other.tri)
    assert terms.soft_id != other.soft_id
    assert terms.soft_tri != other.soft_tri
    of_teacher = torch.autograd.grad(
        sum(terms, start=torch.zeros(())), (teacher.pooled, teacher.logits), allow_unused=True
    )
    assert of_teacher == (None, None)


def test_pinned_values() -> None:
    terms = mutual_terms(output(0), output(1), LABEL, 0.1)
    assert [float(term) for term in terms] == pytest.approx(
        [1.07424997, 1.32598498, 1.43991409, 0.74854387], abs=1e-8
    )


def test_weights_share_out_hard_and_soft() -> None:
    assert mutual_weights(0.3, 1.0) == pytest.approx(
        {"id": 0.7, "soft_id": 0.3, "tri": 0.0, "soft_tri": 1.0}
    )
    assert tuple(mutual_weights(0.5, 0.8)) == MutualTerms._fields
    for wrong in ((-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            mutual_weights(*wrong)


def test_a_network_without_classifier_is_refused() -> None:
    bare = NetOutput(output(0).pooled, output(0).neck, None)
    for pair in ((bare, output(1)), (output(1), bare)):
        with pytest.raises(ValueError, match="relabel before"):
            mutual_terms(*pair, LABEL, 0.1)


def test_active_triplets_by_hand() -> None:
    # Points 0, 2, 3 and 9 on a line: 0 and 2 have a stranger nearer than each other or as near
    pooled = torch.tensor([[0.0], [2.0], [3.0], [9.0]], requires_grad=True)
    found = active_triplets(NetOutput(pooled, pooled, None), torch.tensor([0, 0, 1, 1]))
    # d_ap - d_an: 2 - 3, 2 - 1, 6 - 1, 6 - 7
    assert float(found) == 0.5
    assert not found.requires_grad


@given(st.integers(0, 10_000))
def test_active_triplets_are_those_that_the_softmax_gives_less_than_one_half(seed: int) -> None:
    out = output(seed)
    active = 0
    for i in range(6):
        d = [math.dist(out.pooled[i].tolist(), out.pooled[j].tolist()) for j in range(6)]
        far = max(d[j] for j in range(6) if j != i and LABEL[j] == LABEL[i])
        near = min(d[j] for j in range(6) if LABEL[j] != LABEL[i])
        active += math.exp(near) / (math.exp(far) + math.exp(near)) < 0.5
    assert float(active_triplets(out, LABEL)) == pytest.approx(active / 6)


def test_active_triplets_pinned() -> None:
    shares = [float(active_triplets(output(seed), LABEL)) for seed in range(4)]
    assert shares == pytest.approx([5 / 6, 1, 1, 0.5])
