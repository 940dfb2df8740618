"""Run the notebooks of this folder from start to end, and keep what they show.

    python notebooks/execute.py [--keep] [NAME ...]

In: notebooks, and the environment, which says what they read (SWEEP, MM1_ABLATE_STORE). Out: with `--keep` the same files with new outputs;
an error in a cell ends it. Needs nbclient and ipykernel: `pip install -e '.[test]'`.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
NO_WIDGETS = "ignore:IProgress not found"
"""Of tqdm, which MLflow and Ray import: bars are text where ipywidgets is not installed."""
OWN_FOLDER = re.compile(re.escape(tempfile.gettempdir()) + r"/tmp\w+/")
"""What a notebook made for itself: another one each time."""
SECONDS = 3600
"""After which a cell counts as stuck."""


def execute(path: Path, environment: Mapping[str, str]) -> nbformat.NotebookNode:
    """A notebook with the outputs of a kernel of its own, in its folder.

    Args:
        environment: variables of the kernel besides those of this process.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    # A backend that this process was given for its own figures would leave the notebook without any.
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    place = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place, coalesce_streams=True)
    client.execute(env={**inherited, "PYTHONWARNINGS": NO_WIDGETS, **environment})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # at what time each line ran
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = OWN_FOLDER.sub("", output.text)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of notebooks, without .ipynb; all by default")
    parser.add_argument("--keep", action="store_true", help="write the outputs into the files")
    options = parser.parse_args()
    for path in [FOLDER / f"{name}.ipynb" for name in options.names] or sorted(FOLDER.glob("*.ipynb")):
        notebook = execute(path, {})
        if options.keep:
            nbformat.write(notebook, path)
        print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
