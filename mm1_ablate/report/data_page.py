"""What an experiment's data holds, as a page in one file. In: an `Inspection`. Out: HTML that needs nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from mm1_ablate.data.inspection import Inspection, Spread
from mm1_ablate.report.cells import amount
from mm1_ablate.report.page import data_address, page


def data_page(inspection: Inspection, name: str, sequence_of_facts: list[str], joined: Mapping[str, str]) -> str:
    """The page.

    Args:
        name: of the experiment or arm.
        sequence_of_facts: sentences on the whole, above the table.
        joined: by source or task, what it joins as tokens.
    """
    return page(
        "data.html.jinja",
        inspection=inspection,
        sub_images=any(not isinstance(part, str) and len(part) > 1 for document in inspection.shown for part in document.parts),
        name=name,
        facts=sequence_of_facts,
        joined=joined,
        amount=amount,
        percent=percent,
        spread=spread,
        picture=data_address,
        is_text=lambda part: isinstance(part, str),
    )


def percent(share: float) -> str:
    """A share as people read it; one above 0 is never shown as 0."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def spread(values: Spread | None) -> str:
    """Median and the 5th to 95th percentile."""
    if values is None:
        return "–"
    if values.low == values.high:
        return f"{values.median:,.0f}"
    return f"{values.median:,.0f} ({values.low:,.0f} to {values.high:,.0f})"
