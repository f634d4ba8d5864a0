"""Colors hold what they promise: contrast on both papers, and told apart by the color-blind."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.report.palette import COLORS, GRAY

SEEN_AS = {  # Machado et al. 2009, severity 1.0, on linear RGB
    "everybody": np.eye(3),
    "protanopes": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.052]],
    "deuteranopes": [[0.3673, 0.8606, -0.228], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopes": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
TO_XYZ = np.array(
    [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
)  # fmt: skip


def linear(color: str) -> np.ndarray:
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.1: (L1 + 0.05) / (L2 + 0.05)."""
    low, high = sorted(float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.0888]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def themes() -> list[dict[str, str]]:
    """Colors of the page by name: light, dark, in print."""
    template = files("adapt.report").joinpath("page.html.j2").read_text()
    return [
        {
            name: color if len(color) == 7 else "#" + "".join(2 * c for c in color[1:])
            for name, color in re.findall(r"--(\w+): (#[0-9a-f]+)", theme)
        }
        for theme in re.findall(r":root \{(.*?)\}", template, flags=re.S)
    ]


def test_contrast_by_hand() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("color", [*COLORS, GRAY])
def test_each_color_stands_out_on_light_and_dark_paper(color: str) -> None:
    papers = {theme["paper"] for theme in themes()}
    assert len(papers) == 2
    assert all(contrast(color, paper) >= 3 for paper in papers)


@pytest.mark.parametrize("eyes", SEEN_AS)
def test_everybody_tells_them_apart(eyes: str) -> None:
    seen = [lab(np.array(SEEN_AS[eyes]) @ linear(c)) for c in (*COLORS, GRAY)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 18.5


def test_text_colors_are_readable() -> None:
    """WCAG 2.1, 1.4.3: 4.5 : 1 for text."""
    assert len(themes()) == 3
    for theme in themes():
        for name in ("ink", "soft", "good", "odd", "bad"):
            for ground in ("paper", "card"):
                assert contrast(theme[name], theme[ground]) >= 4.5, (name, ground)
