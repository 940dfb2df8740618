"""Files handed out: a commented sweep to start from, its experiment, and the JSON Schemas that both name for the editor.

The layout is that of the repository (`sweeps/`, `experiments/`, `schemas/`), so that the paths inside the files hold.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def template(name: str) -> Path:
    """A file to start from. The experiment is packaged from the repository's own; a checkout has it in its place there."""
    packaged = PACKAGE / "templates" / name
    return packaged if packaged.exists() else PACKAGE.parent / name


def write_sweep(folder: Path) -> list[Path]:
    """Write a sweep, its experiment and the schemas into a folder.

    Raises:
        FileExistsError: a file of that name is there already; nothing has been written then.
    """
    texts = {
        folder / "sweeps" / "first.yaml": template("sweep.yaml").read_text(encoding="utf-8"),
        folder / "experiments" / "miniature.yaml": template("experiments/miniature.yaml").read_text(encoding="utf-8"),
    }
    for path in texts:
        if path.exists():
            raise FileExistsError(path)
    from mm1_ablate.config.schema import write_schemas

    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [*texts, *write_schemas(folder / "schemas")]
