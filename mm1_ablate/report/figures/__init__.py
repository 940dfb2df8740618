"""Pictures of a comparison, each drawn only where the study has what it shows.

In: a `StudyComparison`, and for learning curves a table (arm, seed, step, loss). Out: matplotlib figures, as PNG or SVG bytes. A colour
means the same in all panels of all pictures: a verdict (`style.py`). Nothing is shown on a screen.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.figures.costs import costs
from mm1_ablate.report.figures.effects import effects
from mm1_ablate.report.figures.forest import forest
from mm1_ablate.report.figures.mixtures import mixtures
from mm1_ablate.report.figures.panels import curves, shots
from mm1_ablate.report.figures.style import FAINT, INK, MUTED, png, svg
from mm1_ablate.report.figures.tasks import tasks

__all__ = ["FAINT", "INK", "MUTED", "costs", "curves", "drawn", "effects", "forest", "mixtures", "png", "shots", "svg", "tasks"]


def drawn(comparison: StudyComparison, losses: pd.DataFrame | None = None) -> dict[str, Figure]:
    """All pictures that there is something to draw for, by name (see `markdown.PICTURES`)."""
    pictures = {
        "forest": forest(comparison),
        "shots": shots(comparison),
        "tasks": tasks(comparison),
        "mixtures": mixtures(comparison),
        "costs": costs(comparison),
        "effects": effects(comparison),
        "curves": curves(comparison, losses),
    }
    return {name: figure for name, figure in pictures.items() if figure is not None}
