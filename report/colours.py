"""The colours of the page and its figures, the same on light and on dark paper.

The first twelve colours of groups were searched for: twelve of the 5,832 colours of a grid, with a
lightness L* from 38 to 78, of which the two closest are as far apart as possible (CIE Lab) to
readers with normal sight and with any of the three kinds of colour blindness (Machado et al. 2009).
No two are closer than 23. The other 28 are as far from each other as possible to normal sight.
"""

from __future__ import annotations

GROUPS = (
    *("#694ba5", "#f0b469", "#4bd2e1", "#a52d5a", "#c3c300", "#7869f0", "#87c3a5", "#b4780f"),
    *("#695a1e", "#f05a69", "#c396ff", "#4b87a5", "#00b43c", "#f04bc3", "#f0a5c3", "#00692d"),
    *("#c33c00", "#0096ff", "#a55a4b", "#875a78", "#78962d", "#00d296", "#a5b4f0", "#2d7869"),
    *("#ff9678", "#962d87", "#ff871e", "#ff2d87", "#b4b478", "#5a69a5", "#96d24b", "#872db4"),
    *("#ff87d2", "#f0b40f", "#d2002d", "#c39678", "#3cc3ff", "#d269f0", "#007800", "#69965a"),
)
BLIND_SAFE = 12  # so many of them can be told apart by colour-blind readers
MISSING = "#9a9ca1"  # of cells without a group
# From low to high: the lightness falls evenly, so that the scale can be read in greyscale too.
SCALE = ((0.0, "#c6cad1"), (0.35, "#e0a458"), (0.7, "#d1495b"), (1.0, "#8f1d5c"))

# The same on dark paper, where the high end must be the light one.
DARK_SCALE = ((0.0, "#464b54"), (0.35, "#8c4763"), (0.7, "#e0708f"), (1.0, "#ffdcc4"))


def of_groups(n_groups: int) -> list[str]:
    """Return a colour for each group; they come again where there are more than forty."""
    return [GROUPS[i % len(GROUPS)] for i in range(n_groups)]
