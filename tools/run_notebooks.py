"""Run notebooks in place and keep their outputs: run_notebooks.py [--all] NOTEBOOK...

Cells flagged `#| eval: false` are left as they are, and so are notebooks with `skip_exec: true`, unless --all is given.
"""
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SKIP = re.compile(r"^#\|\s*eval:\s*false", re.MULTILINE)
FLAG = re.compile(r"^skip_exec:\s*true", re.MULTILINE)


def mark(nb, tag="skip-execution"):
    "Tag the cells that are not to be run."
    for c in nb.cells:
        if c.cell_type == "code" and SKIP.search(c.source): c.metadata.setdefault("tags", []).append(tag)


def unmark(nb):
    "Drop the tags, the timestamps and the widget state of the run."
    nb.metadata.pop("widgets", None)
    for c in nb.cells: c.metadata.clear()


def run(path, everything=False):
    "Run one notebook in its own folder, then write beside it and rename."
    nb = nbformat.read(path, 4)
    if not everything and FLAG.search(nb.cells[0].source): return print(f"{path}: left as it is", flush=True)
    start = time.time()
    mark(nb)
    NotebookClient(nb, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    unmark(nb)
    beside = path.with_suffix(".part")
    nbformat.write(nb, beside)
    os.replace(beside, path)
    print(f"{path}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    paths = [a for a in sys.argv[1:] if a != "--all"]
    for p in paths: run(Path(p), everything="--all" in sys.argv)
