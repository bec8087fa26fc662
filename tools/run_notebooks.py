"""Run notebooks in place and keep their outputs: run_notebooks.py [--all] NOTEBOOK...

Cells flagged `#| eval: false` are left as they are, and so are notebooks with `skip_exec: true`, unless --all is given.
What each was run on is noted in docs/runs.json, and shown on its page of the site.
"""
import json
import os
import platform
import re
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import nbformat
from make_readme import ROOT, write
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


def facts(seconds):
    "What this machine runs notebooks on."
    import torch
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"a CPU ({os.cpu_count()} cores)"
    return dict(date=date.today().isoformat(), seconds=round(seconds), python=platform.python_version(), device=device,
                versions={k: version(k) for k in ("torch", "torchvision", "fastai")})


def note(name, run, path=ROOT/"docs"/"runs.json"):
    "Replace the entry of one notebook."
    runs = json.loads(path.read_text(encoding="utf-8"))
    write(path, (json.dumps(dict(sorted({**runs, name: run}.items())), indent=1) + "\n").encode())


def run(path, everything=False):
    "Run one notebook in its own folder, then write beside it and rename."
    nb = nbformat.read(path, 4)
    if not everything and FLAG.search(nb.cells[0].source): return print(f"{path}: left as it is", flush=True)
    start = time.time()
    mark(nb)
    NotebookClient(nb, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    unmark(nb)
    seconds = time.time() - start
    write(path, (nbformat.writes(nb) + "\n").encode())
    note(path.resolve().relative_to(ROOT/"nbs").with_suffix("").as_posix(), facts(seconds))
    print(f"{path}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    paths = [a for a in sys.argv[1:] if a != "--all"]
    for p in paths: run(Path(p), everything="--all" in sys.argv)
