"""Precision and compiled code: what they change, and what stays."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import Compute  # noqa: E402
from adapt.errors import ConfigError  # noqa: E402
from adapt.runtime.compute import precision_on, set_up  # noqa: E402
from adapt.training.extraction import extract  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

CPU = torch.device("cpu")
SIZE = 32, 16


def net() -> ReIDNet:
    torch.manual_seed(0)
    return ReIDNet("resnet18", classes=3)


def view(count: int = 4):  # type: ignore[no-untyped-def]
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert precision_on(CPU, "auto") == torch.float32
    assert precision_on(CPU, "float32") == torch.float32
    assert precision_on(CPU, "bfloat16") == torch.bfloat16


def test_the_default_changes_no_bit() -> None:
    plain, made = net(), net()
    set_up([made], Compute(), CPU, SIZE)
    for a, b in zip(plain(view()), made(view()), strict=True):
        assert torch.equal(a, b)


def test_bfloat16_multiplies_coarsely_and_gives_float32() -> None:
    plain, half = net(), net()
    set_up([half, torch.nn.ModuleDict()], Compute(precision="bfloat16"), CPU, SIZE)
    for a, b in zip(plain.eval()(view()), half.eval()(view()), strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
    pooled, halved = (each(view()).pooled for each in (plain, half))
    assert float((pooled - halved).abs().max()) < 0.05 * float(pooled.abs().max())


def test_parameters_and_their_gradients_stay_float32() -> None:
    half = net()
    before = {name: value.dtype for name, value in half.state_dict().items()}
    set_up([half], Compute(precision="bfloat16"), CPU, SIZE)
    out = half(view())
    (out.logits.square().sum() + out.pooled.sum()).backward()
    assert {name: value.dtype for name, value in half.state_dict().items()} == before
    assert all(p.grad.dtype == torch.float32 for p in half.parameters() if p.grad is not None)


def test_what_follows_the_trunk_is_float32_bit_for_bit() -> None:
    """The losses see the same sums of the same map, whatever made the map."""
    half = net()
    set_up([half], Compute(precision="bfloat16"), CPU, SIZE)
    half.eval()
    features = half.feature_map(view())
    again = net().eval().from_map(features)
    for a, b in zip(again, half(view()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_extraction_is_in_the_same_precision() -> None:
    half = net()
    set_up([half], Compute(precision="bfloat16"), CPU, SIZE)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 16, 3), dtype=np.uint8)
    coarse, exact = (extract([each], images, device=CPU)[0] for each in (half, net()))
    assert coarse.dtype == np.float32
    assert not np.array_equal(coarse, exact)
    np.testing.assert_allclose(coarse, exact, atol=0.02)
    assert half.precision == torch.bfloat16


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiler_that_is_there_is_found() -> None:
    set_up([], Compute(compile=True), CPU, SIZE)


def test_compiled_trunks_keep_their_names_and_what_they_compute() -> None:
    plain, made = net(), net()
    set_up([made], Compute(compile=True), CPU, SIZE, backend="eager")
    assert made.state_dict().keys() == plain.state_dict().keys()
    for a, b in zip(plain(view()), made(view()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "the trunk went through the compiler"
    made.reset_classifier(5)
    assert made(view()).logits.shape == (4, 5)
    copied = copy.deepcopy(made).eval()
    with torch.no_grad():
        copied.backbone[0].weight.zero_()
        assert not torch.equal(copied(view()).pooled, made.eval()(view()).pooled)


def test_maps_whose_gradients_bfloat16_leaves_undefined_are_refused() -> None:
    small, half = ReIDNet("mobilenet_v2"), Compute(precision="bfloat16")
    with pytest.raises(ConfigError, match=r"32x16 are too small .* compute.precision=float32"):
        set_up([small], half, CPU, SIZE)
    assert small.precision == torch.float32
    assert small.training
    assert small.neck.num_batches_tracked.item() == 0
    set_up([small], Compute(), CPU, SIZE)
    set_up([small], half, CPU, (64, 32))
    assert small.precision == torch.bfloat16


@pytest.mark.parametrize(("backbone", "size"), [("mobilenet_v2", (64, 32)), ("resnet18", (32, 16))])
def test_gradients_in_bfloat16_do_not_depend_on_what_memory_held(
    backbone: str, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    made = ReIDNet(backbone)
    set_up([made], Compute(precision="bfloat16"), CPU, size)
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(16, 3, *size)
    found = []
    for junk in (0.0, float("nan")):
        freed = [torch.full_like(p, junk) for p in made.parameters() for _ in range(4)]
        del freed
        made.zero_grad()
        made(images).pooled.square().sum().backward()
        grads = [p.grad for p in made.backbone.parameters() if p.grad is not None]
        found.append(torch.cat([grad.flatten() for grad in grads]))
    assert bool(found[0].isfinite().all())
    assert torch.equal(*found)


def test_without_a_compiler_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> object:
        raise RuntimeError("no compiler\nin the path")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ConfigError, match=r"no compiler\); install .* compute.compile=false"):
        set_up([net()], Compute(compile=True), CPU, SIZE)
