"""mm1-ablate: which part of a multimodal training recipe matters?

Data goes one way: a YAML file becomes a study (`config`), the study a plan (`plan`), the plan trials on Ray (`run`, over `data`, `model`,
`training` and `evaluation`) that are kept in a store (`store`), and scores become a comparison (`report`), shown in MLflow (`tracking`).

Python programs and notebooks use what `__all__` names (`import mm1_ablate as mm`, docs/python_api.md); everything else is private. It is
imported when it is first used, so that the command line answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mm1_ablate.version import __version__

if TYPE_CHECKING:
    from mm1_ablate.api import Plan, Study, StudyError, detectable_difference, plan_together

__all__ = ["Plan", "Study", "StudyError", "__version__", "detectable_difference", "plan_together"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mm1_ablate import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
