"""How pictures look: typefaces, colours that mean a verdict, the key to them, and pictures as bytes.

Colours are Okabe and Ito's (2008), told apart by colour-blind readers; every colour is doubled by a marker or a word.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mm1_ablate.report.cells import BASELINE, BETTER, HOLE, UNDECIDED, WORSE, ArmRow
from mm1_ablate.report.comparison import StudyComparison

INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d0d7de"
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7"


class Look(NamedTuple):
    """How what has a verdict is drawn.

    Attributes:
        fill: of the marker: full, left (one half) or none.
        words: of the key.
    """

    colour: str
    marker: str
    fill: str
    words: str


OF_BASELINE = Look(INK, "o", "full", "baseline")
OF_BETTER, OF_WORSE = Look(BLUE, "^", "full", BETTER), Look(VERMILION, "v", "full", WORSE)
EQUIVALENT = Look(GREEN, "D", "full", "no difference of interest")
ALONE = Look(ORANGE, "o", "left", "significant alone, not after correction")
OPEN, MISSING = Look(MUTED, "o", "none", "undecided"), Look(MUTED, "x", "full", "trials missing")
LOOKS = (OF_BASELINE, OF_WORSE, OF_BETTER, EQUIVALENT, ALONE, OPEN, MISSING)
"""In the order of the key."""


def look(row: ArmRow, comparison: StudyComparison) -> Look:
    """How an arm is drawn, in every picture."""
    decided = {BASELINE: OF_BASELINE, BETTER: OF_BETTER, WORSE: OF_WORSE, HOLE: MISSING}
    if row.verdict in decided:
        return decided[row.verdict]
    if row.verdict not in UNDECIDED:
        return EQUIVALENT
    return ALONE if comparison.is_significant_alone(row.cells[comparison.primary]) else OPEN


def key(figure: Figure, looks: Iterable[Look], columns: int, below: float) -> None:
    """The meaning of colours and markers, below all axes.

    Args:
        columns: of entries.
        below: of its upper edge, in shares of the figure's height.
    """
    found = set(looks)
    handles = [Line2D([], [], linestyle="", **marker(one), label=one.words) for one in LOOKS if one in found]
    if handles:
        figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, below), ncols=min(columns, len(handles)))


def marker(one: Look, size: float = 6.5) -> dict[str, Any]:
    """What matplotlib calls the marker of a look."""
    return {
        "color": one.colour,
        "marker": one.marker,
        "markersize": size,
        "fillstyle": one.fill,
        "markerfacecoloralt": "white",
        "markeredgewidth": 1.4,
        **({"markerfacecolor": "white", "fillstyle": "full"} if one.fill == "none" else {}),
    }


OF_SURROUNDINGS = ("backend", "interactive", "toolbar", "webagg", "tk.", "macosx", "keymap", "date.", "timezone")
STYLE: Any = {
    # Whoever runs the command may have a matplotlibrc, for a paper with LaTeX, say.
    **{name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith(OF_SURROUNDINGS)},
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "mm1-ablate",
    "figure.dpi": 100,
    "savefig.dpi": 200,
}


def png(figure: Figure) -> bytes:
    """200 dots per inch on white."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.1, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """With text as text, and on no background."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        metadata = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.1, transparent=True, metadata=metadata)
    return buffer.getvalue()


def blank(width: float, height: float) -> Figure:
    """A figure whose axes are laid out so that no words overlap. In inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def inches(texts: Iterable[str]) -> float:
    """Room for the longest of some texts in 9 points of a wide typeface."""
    return 0.077 * max(map(len, texts), default=0) + 0.15
