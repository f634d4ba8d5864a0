"""Source pre-training against slow, obvious versions of its equations, with and without parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from pydantic import ValidationError  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from adapt.config import Augmentation, BatchShape, OptimizerSettings, Schedule  # noqa: E402
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.methods import Source  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.runs.tensor_files import load_network, save_network  # noqa: E402
from adapt.types import Batch, CropSet, Sample  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.loop import run_loop  # noqa: E402
from tests.support.loss_terms import term_values, term_weights  # noqa: E402
from tests.support.thin_trunks import SHARE  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

D = 512 // SHARE
P, S = 3, 2
PERSONS = np.repeat([11, 22, 33], 4)


def source(**options: object) -> Source:
    torch.manual_seed(0)
    settings = {"parts_model": "m.onnx" if options.get("parts") == "masks" else "", **options}
    method = Source(ReIDNet("resnet18"), SourceOptions(**settings), PERSONS)
    for net in method.networks().values():
        net.train()
    return method


def batch(masks: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(1)
    view = torch.randn(P * S, 3, 64, 32, generator=generator)
    if masks:
        drawn = torch.rand(P * S, 2, 64, 32, generator=generator)
        view = torch.cat([view, drawn.round()], dim=1)
    return Batch((view,), torch.arange(P).repeat_interleave(S), torch.arange(P * S))


def smoothed(logits: torch.Tensor, label: torch.Tensor) -> float:
    total = 0.0
    for z, y in zip(logits, label, strict=True):
        target = torch.full((P,), 0.1 / P)
        target[y] += 0.9
        total -= float((target * F.log_softmax(z, 0)).sum().detach())
    return total / len(label)


def test_equation_3_written_out() -> None:
    method, data = source(), batch()
    losses = method.step((data,))
    with torch.no_grad():
        out = method.net(data.views[0])
    assert term_values(losses)["id"].item() == pytest.approx(
        smoothed(out.logits, data.label), rel=1e-4
    )
    tri = margin = active = 0.0
    for a in range(P * S):
        d = [float((out.pooled[a] - out.pooled[j]).norm()) for j in range(P * S)]
        d_p = max(d[j] for j in range(P * S) if data.label[j] == data.label[a] and j != a)
        d_n = min(d[j] for j in range(P * S) if data.label[j] != data.label[a])
        tri += np.log1p(np.exp(d_p - d_n)) / (P * S)
        margin += max(0.0, d_p - d_n + 0.3) / (P * S)
        active += (d_p > d_n) / (P * S)
    assert term_values(losses)["tri"].item() == pytest.approx(tri, rel=1e-3)
    assert term_weights(losses) == {"id": 1.0, "tri": 1.0}
    assert set(losses.stats) == {"accuracy", "active"}
    assert float(losses.stats["active"]) == pytest.approx(active)
    with_margin = source(margin=0.3, lambda_tri=2.0).step((data,))
    assert term_values(with_margin)["tri"].item() == pytest.approx(margin, rel=1e-3)
    assert term_weights(with_margin)["tri"] == 2.0


@pytest.mark.parametrize("parts", ["halves", "masks"])
def test_parts_have_identity_losses_of_their_own(parts: str) -> None:
    method, data = source(parts=parts), batch(masks=parts == "masks")
    losses = method.step((data,))
    (view,) = data.views
    assert method.heads is not None
    with torch.no_grad():
        features = method.net.feature_map(view[:, :3])  # (B, D, 4, 2)
        out = method.net(view[:, :3])
        pooled = torch.zeros(P * S, 2, D)
        for i in range(P * S):
            for p in range(2):
                if parts == "halves":
                    pooled[i, p] = features[i, :, 2 * p : 2 * p + 2].mean(dim=(1, 2))
                    continue
                weight = view[i, 3 + p].reshape(4, 16, 2, 16).mean(dim=(1, 3))
                pooled[i, p] = (features[i] * weight).sum(dim=(1, 2)) / weight.sum()
        upper, lower = method.heads(pooled)
    expected = {"id": out.logits, "id_upper": upper, "id_lower": lower}
    for name, logits in expected.items():
        found = term_values(losses)[name].item()
        assert found == pytest.approx(smoothed(logits, data.label), rel=1e-3), name
    assert term_weights(losses) == {"id": 1, "id_upper": 1, "id_lower": 1, "tri": 1}
    assert set(losses.stats) == {
        *("accuracy", "accuracy_upper", "accuracy_lower"),
        "active",
    }
    plain = source().step((Batch((view[:, :3],), data.label, data.index),))
    assert term_values(losses)["tri"].item() == pytest.approx(
        term_values(plain)["tri"].item(), rel=1e-5
    )


@pytest.mark.parametrize("parts", ["none", "halves", "masks"])
def test_what_is_trained_and_what_is_kept(parts: str, tmp_path: Path) -> None:
    method = source(parts=parts)
    method.step((batch(masks=parts == "masks"),)).total().backward()
    trained = [p for net in method.trained() for p in net.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert len(method.trained()) == (1 if parts == "none" else 2)
    assert method.embedder() is method.net
    save_network(method.embedder(), tmp_path / "net")
    load_network(ReIDNet("resnet18"), tmp_path / "net")  # raises if it held a head
    assert not [name for name in method.net.state_dict() if "reductions" in name]


def test_without_parts_nothing_is_drawn_for_them() -> None:
    source()
    plain = torch.rand(1)
    source(parts="halves")
    assert not torch.equal(torch.rand(1), plain)
    assert torch.equal(
        source().net.backbone.conv1.weight, source(parts="halves").net.backbone.conv1.weight
    )


def test_pinned_first_step() -> None:
    """A change of any number here is a change of the method: say so in the changelog."""
    totals = [
        float(source(parts=parts, margin=0.3).step((batch(parts == "masks"),)).total().detach())
        for parts in ("none", "halves", "masks")
    ]
    assert totals == pytest.approx([1.6084, 3.8107, 3.8102], rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"parts": "masks"},
        {"parts": "halves", "parts_model": "m.onnx"},
        {"parts": "thirds"},
        {"upper_classes": ()},
        {"lower_classes": (-1,)},
        {"margin": -1},
    ],
)
def test_options_that_do_not_hold(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SourceOptions(**options)


def test_masks_follow_their_image_through_the_loop() -> None:
    """Channels 4 and 5 repeat the red one: after any flip, crop and erasing they still do."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 32, 16, 3), dtype=np.uint8)
    images = np.concatenate([images, images[..., :1], images[..., :1]], axis=3)
    samples = tuple(
        Sample(Path(f"{i}.png"), f"{i}.png", camera=i % 2, person=int(p))
        for i, p in enumerate(PERSONS)
    )
    seen: list[torch.Tensor] = []

    class Watching(Source):
        def step(self, batches: tuple[Batch, ...]):  # type: ignore[no-untyped-def]
            seen.extend(batches[0].views)
            return super().step(batches)

    torch.manual_seed(0)
    options = SourceOptions(parts="masks", parts_model="m.onnx")
    method = Watching(ReIDNet("resnet18"), options, PERSONS)
    heads = {k: v.clone() for k, v in method.networks()["parts"].state_dict().items()}
    rounds = run_loop(
        method,
        DecodedCrops(CropSet(Path(), samples, ("a", "b")), images),
        schedule=Schedule(rounds=2, iterations=1),
        batch=BatchShape(identities=P, instances=S),
        augment=Augmentation(pad=4, erase=1.0),
        optimizer=OptimizerSettings(lr=1e-3),
    )
    first, _ = rounds
    assert {"loss_id_upper", "loss_id_lower", "accuracy_lower"} <= set(first.metrics)
    for view in seen:
        red = view[:, 0] * 0.229 + 0.485
        for mask in (view[:, 3], view[:, 4]):
            erased = (view[:, :3] == 0).all(dim=1)
            assert 0.01 < float(erased.float().mean()) < 0.6
            torch.testing.assert_close(mask[~erased], red[~erased], atol=1e-5, rtol=1e-5)
            assert not mask[erased].any()
    after = method.networks()["parts"].state_dict()
    assert any(not torch.equal(heads[k], after[k]) for k in heads if k.endswith("weight"))
