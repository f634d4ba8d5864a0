"""HLI's equations: by hand, as properties, against references, pinned."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.losses.imitation import (
    Relation,
    attract_loss,
    informative_point,
    mimic_loss,
    relation_matrix,
    repel_loss,
    structure_loss,
)

RELATIONS: tuple[Relation, ...] = get_args(Relation)

# Three images, the first two of one person; the teacher is right about the first and the third.
STUDENT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
TEACHER = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 5.0]])
RIGHT = torch.tensor([True, False, True])
LABEL = torch.tensor([0, 0, 1])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(seed: int, size: int = 9) -> tuple[torch.Tensor, ...]:
    """Features of student and teacher, whether the teacher is right, labels."""
    draw = generator(seed)
    student, teacher = torch.randn(2, size, 4, generator=draw, dtype=torch.float64)
    right = torch.rand(size, generator=draw) < 0.5
    return student, teacher, right, torch.randint(0, 3, (size,), generator=draw)


def squared(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.dist(a.tolist(), b.tolist()) ** 2


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def reference_imitation(  # type: ignore[no-untyped-def]
    student, teacher, right, label, bound
) -> tuple[float, float, float]:
    """Equations 2 and 3 as the paper tells them, image by image: mimic, repel, attract."""
    mimic, repel, attract = [], [], []
    for i in range(len(student)):
        if right[i]:
            mimic.append(squared(student[i], teacher[i]))
            continue
        repel.append(min(squared(student[i], teacher[i]), bound))
        helpers = [
            teacher[j] for j in range(len(student)) if right[j] and int(label[j]) == int(label[i])
        ]
        if helpers:
            attract.append(squared(student[i], torch.stack(helpers).mean(0)))
    return mean(mimic), -mean(repel), mean(attract)


def reference_relation(feat: torch.Tensor, relation: Relation) -> list[list[float]]:
    size = len(feat)
    d = [[math.dist(feat[i].tolist(), feat[j].tolist()) for j in range(size)] for i in range(size)]
    if relation == "inverse":
        return [[1 / (1 + x) for x in row] for row in d]
    if relation == "relative":
        typical = mean([d[i][j] for i in range(size) for j in range(size) if i != j])
        return [[1 / (1 + x / typical) for x in row] for row in d]
    return [[math.exp(-x) / sum(math.exp(-y) for y in row) for x in row] for row in d]


# --- imitation


def test_imitation_of_three_samples_by_hand() -> None:
    # |s - t|^2 = 4, 9, 9. Right: 1 and 3; the second's helper is the first, (1, 2).
    assert float(mimic_loss(STUDENT, TEACHER, RIGHT)) == pytest.approx((4 + 9) / 2)
    assert float(repel_loss(STUDENT, TEACHER, RIGHT, 20.0)) == pytest.approx(-9)
    assert float(repel_loss(STUDENT, TEACHER, RIGHT, 5.0)) == pytest.approx(-5)
    assert float(attract_loss(STUDENT, TEACHER, RIGHT, LABEL)) == pytest.approx(1 + 1)
    # wrong about both of person 0: nobody helps them; about nobody: nothing to repel
    both = torch.tensor([False, False, True])
    assert float(attract_loss(STUDENT, TEACHER, both, LABEL)) == 0
    assert float(repel_loss(STUDENT, TEACHER, both, 5.0)) == pytest.approx(-(4 + 5) / 2)
    # two helpers: their mean, (1.5, 3.5), not the mean of their distances
    one_person = torch.tensor([0, 0, 0])
    value = float(attract_loss(STUDENT, TEACHER, RIGHT, one_person))
    assert value == pytest.approx(1.5**2 + 2.5**2)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 9), bound=st.floats(0.1, 30))
def test_imitation_equals_the_reference(seed: int, size: int, bound: float) -> None:
    student, teacher, right, label = batch(seed, size)
    mimic, repel, attract = reference_imitation(student, teacher, right, label, bound)
    assert float(mimic_loss(student, teacher, right)) == pytest.approx(mimic, rel=1e-9)
    assert float(repel_loss(student, teacher, right, bound)) == pytest.approx(repel, rel=1e-9)
    assert float(attract_loss(student, teacher, right, label)) == pytest.approx(attract, rel=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_a_teacher_that_is_always_right_is_only_mimicked(seed: int) -> None:
    student, teacher, _, label = batch(seed)
    right = torch.ones(len(label), dtype=torch.bool)
    student.requires_grad_()
    rest = repel_loss(student, teacher, right, 4.0) + attract_loss(student, teacher, right, label)
    assert rest.item() == 0
    (gradient,) = torch.autograd.grad(rest, student)
    assert not gradient.any()
    (pull,) = torch.autograd.grad(mimic_loss(student, teacher, right), student)
    torch.testing.assert_close(pull, 2 * (student - teacher).detach() / len(label))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_a_teacher_that_is_always_wrong_is_only_repelled(seed: int) -> None:
    student, teacher, _, label = batch(seed)
    right = torch.zeros(len(label), dtype=torch.bool)
    assert float(mimic_loss(student, teacher, right)) == 0
    assert float(attract_loss(student, teacher, right, label)) == 0
    unit = torch.nn.functional.normalize(student, dim=1)
    other = torch.nn.functional.normalize(teacher, dim=1)
    assert -4 <= float(repel_loss(unit, other, right, 1e9)) <= 0
    opposite = float(repel_loss(unit, -unit, right, 1e9))
    assert opposite == pytest.approx(-4), "the bound of unit vectors"


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_imitation_ignores_the_order_of_the_batch(seed: int) -> None:
    student, teacher, right, label = batch(seed)
    order = torch.randperm(len(label), generator=generator(seed))
    for loss in (
        lambda s, t, r, y: mimic_loss(s, t, r),
        lambda s, t, r, y: repel_loss(s, t, r, 3.0),
        attract_loss,
    ):
        torch.testing.assert_close(
            loss(student[order], teacher[order], right[order], label[order]),
            loss(student, teacher, right, label),
        )


def test_features_run_away_from_a_wrong_teacher_and_the_bound_stops_them() -> None:
    """HLI's own collapse: -|s - t|^2 of features that are not normalized has no minimum."""
    teacher = torch.zeros(4, 3)
    wrong = torch.zeros(4, dtype=torch.bool)

    def descend(bound: float) -> torch.Tensor:
        student = torch.full((4, 3), 0.01, requires_grad=True)
        for _ in range(300):
            (gradient,) = torch.autograd.grad(repel_loss(student, teacher, wrong, bound), student)
            student = (student - 0.2 * gradient).detach().requires_grad_()
        return student

    assert descend(1e30).norm(dim=1).min().item() > 1e9
    bounded = descend(1.0).norm(dim=1)
    assert bool((bounded >= 1).all())
    assert bool((bounded < 1.2).all()), "one step beyond the bound at most"


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher, right, label = batch(3)
    student.requires_grad_()
    teacher.requires_grad_()
    losses = (
        mimic_loss(student, teacher, right),
        repel_loss(student, teacher, right, 100.0),
        attract_loss(student, teacher, right, label),
        *(structure_loss(student, teacher, relation) for relation in RELATIONS),
    )
    for loss in losses:
        of_student, of_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
        assert of_teacher is None
        assert float(of_student.norm()) > 0


def test_pinned_imitation() -> None:
    student = torch.arange(12, dtype=torch.float64).reshape(6, 2).sin()
    teacher = student.cos()
    right = torch.tensor([True, False, False, True, False, False])
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    values = (
        mimic_loss(student, teacher, right),
        repel_loss(student, teacher, right, 2.0),
        attract_loss(student, teacher, right, label),
    )
    assert [float(v) for v in values] == pytest.approx(
        [1.29400721, -1.31390253, 3.15043184], abs=1e-8
    )


# --- structure


def test_relations_of_three_samples_by_hand() -> None:
    feat = torch.tensor([[0.0], [1.0], [3.0]])  # d = 1, 3, 2; their mean 2
    inverse = relation_matrix(feat, "inverse")
    torch.testing.assert_close(
        inverse, torch.tensor([[1, 1 / 2, 1 / 4], [1 / 2, 1, 1 / 3], [1 / 4, 1 / 3, 1]])
    )
    relative = relation_matrix(feat, "relative")
    torch.testing.assert_close(
        relative, torch.tensor([[1, 2 / 3, 2 / 5], [2 / 3, 1, 1 / 2], [2 / 5, 1 / 2, 1]])
    )
    e = [math.exp(-d) for d in (0, 1, 3)]
    softmax = relation_matrix(feat, "softmax")
    assert softmax[0].tolist() == pytest.approx([x / sum(e) for x in e], rel=1e-5)
    # a teacher at 0, 3, 1 has rows and columns 2 and 3 exchanged: elements differ by 1/4, 4 times
    swapped = torch.tensor([[0.0], [3.0], [1.0]])
    assert float(structure_loss(feat, swapped, "inverse")) == pytest.approx(4 / 16 / 9, rel=1e-5)


@pytest.mark.parametrize("relation", RELATIONS)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 6))
def test_structure_equals_the_reference(relation: Relation, seed: int, size: int) -> None:
    student, teacher, *_ = batch(seed, size)
    mine, other = reference_relation(student, relation), reference_relation(teacher, relation)
    torch.testing.assert_close(
        relation_matrix(student, relation), torch.tensor(mine).double(), rtol=1e-5, atol=1e-6
    )
    total = mean([(mine[i][j] - other[i][j]) ** 2 for i in range(size) for j in range(size)])
    assert float(structure_loss(student, teacher, relation)) == pytest.approx(
        total, rel=1e-3, abs=1e-9
    )


@pytest.mark.parametrize("relation", RELATIONS)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_structure_is_what_moving_and_turning_leave(relation: Relation, seed: int) -> None:
    student, _, _, _ = batch(seed)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator(seed), dtype=torch.float64))
    moved = student @ turn + 3
    assert float(structure_loss(student, moved, relation)) < 1e-12
    matrix = relation_matrix(student, relation)
    assert bool(((matrix > 0) & (matrix <= 1)).all())
    assert torch.equal(matrix.argmax(1), torch.arange(len(student)))
    doubled = float(structure_loss(student, 2 * student, relation))
    assert (doubled < 1e-9) == (relation == "relative"), "only `relative` has no scale"


def test_pinned_structure() -> None:
    student = torch.arange(12, dtype=torch.float64).reshape(6, 2).sin()
    values = [float(structure_loss(student, student.cos(), relation)) for relation in RELATIONS]
    assert values == pytest.approx([0.08531065, 0.00981684, 0.01125649], abs=1e-8)


@pytest.mark.parametrize("relation", RELATIONS)
def test_identical_images_have_finite_gradients(relation: Relation) -> None:
    student = torch.zeros(4, 3, requires_grad=True)
    loss = structure_loss(student, torch.randn(4, 3, generator=generator()), relation)
    (gradient,) = torch.autograd.grad(loss, student)
    assert bool(gradient.isfinite().all())


# --- the most informative point


def test_three_maps_by_hand() -> None:
    maps = torch.zeros(3, 4, 2)
    maps[0, 0, 1] = 1.0
    maps[1, 3, 0] = 0.5
    maps[1, 2, 1] = 0.4
    maps[2] = -7.0  # flat
    point, flat = informative_point(maps, 64, 32, generator())  # cells of 16 x 16 pixels
    assert point[:2].tolist() == [[8.0, 24.0], [56.0, 8.0]]
    assert flat.tolist() == [False, False, True]
    assert 0 <= float(point[2, 0]) <= 64
    assert 0 <= float(point[2, 1]) <= 32


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5), columns=st.integers(2, 5))
def test_the_point_lies_where_an_enlarged_map_is_greatest(
    seed: int, rows: int, columns: int
) -> None:
    maps = torch.randn(3, rows, columns, generator=generator(seed))
    height, width = 7 * rows, 9 * columns  # odd cells: a pixel sits at each center
    point, flat = informative_point(maps, height, width, generator())
    assert not flat.any()
    large = torch.nn.functional.interpolate(maps[:, None], (height, width), mode="bilinear")[:, 0]
    for one, (y, x) in zip(large, point.tolist(), strict=True):
        assert float(one[int(y), int(x)]) == pytest.approx(float(one.max()), rel=1e-5)


def test_the_point_equals_a_search_cell_by_cell() -> None:
    maps = torch.randn(20, 3, 5, generator=generator(4))
    point, _ = informative_point(maps, 30, 20, generator())
    for one, found in zip(maps, point.tolist(), strict=True):
        cells = [(float(one[r, c]), r, c) for r in range(3) for c in range(5)]
        _, row, column = max(cells)
        assert found == pytest.approx([(row + 0.5) * 10, (column + 0.5) * 4])


def test_flat_maps_point_anywhere_and_the_same_seed_repeats() -> None:
    flat_maps = torch.full((400, 2, 2), 3.0)
    flat_maps[:, 0, 0] += 1e-6  # rounding does not make a maximum
    point, flat = informative_point(flat_maps, 40, 20, generator(5))
    assert flat.all()
    share = point / torch.tensor([40.0, 20.0])
    assert share.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert share.std(0).tolist() == pytest.approx([12**-0.5] * 2, abs=0.03)
    again, _ = informative_point(flat_maps, 40, 20, generator(5))
    assert torch.equal(point, again)
    # what is drawn does not depend on what the maps are: the stream stays in step
    first, second = generator(5), generator(5)
    informative_point(flat_maps, 40, 20, first)
    informative_point(torch.randn(400, 2, 2, generator=generator()), 40, 20, second)
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))


def test_pinned_point() -> None:
    maps = torch.arange(24, dtype=torch.float32).reshape(2, 4, 3).sin()
    maps[1] = 0
    point, flat = informative_point(maps, 16, 12, generator(0))
    assert flat.tolist() == [False, True]
    assert point.flatten().tolist() == pytest.approx([10.0, 10.0, 1.41564, 1.58436], abs=1e-4)


# --- refusals


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, D\)"):
        mimic_loss(STUDENT, TEACHER[:2], RIGHT)
    with pytest.raises(ValueError, match="bool"):
        mimic_loss(STUDENT, TEACHER, RIGHT.long())
    with pytest.raises(ValueError, match="right_B"):
        repel_loss(STUDENT, TEACHER, RIGHT[:2], 1.0)
    for bound in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="bound"):
            repel_loss(STUDENT, TEACHER, RIGHT, bound)
    with pytest.raises(ValueError, match="must be one for each image"):
        attract_loss(STUDENT, TEACHER, RIGHT, LABEL[:2])
    with pytest.raises(ValueError, match="differ"):
        structure_loss(STUDENT, TEACHER[:, :1], "inverse")
    with pytest.raises(ValueError, match="two images"):
        relation_matrix(STUDENT[:1], "softmax")
    with pytest.raises(ValueError, match=r"\(B, h, w\)"):
        informative_point(STUDENT, 4, 4, generator())
