"""Colors that can be told apart on light and dark paper, and by the color-blind.

Each has a contrast of at least 3 : 1 (WCAG 2.1, 1.4.11) to white and to the page's dark paper, and
each pair differs by 19 or more in CIE 1976 Lab, also as protanopes, deuteranopes and tritanopes
see them (Machado et al., 2009).
"""

from __future__ import annotations

COLORS = ("#4477d8", "#a79241", "#ca60b3", "#3ea368", "#824ef9", "#f61d00")

GRAY = "#888888"
"""What is not one of the colored things."""
