"""Run notebooks in place and keep their outputs: run_notebooks.py [--all] NOTEBOOK...

Cells flagged `#| eval: false` are left as they are, and so are notebooks with
`skip_exec: true`, unless --all is given. What each was run on is noted in docs/runs.json, and
shown on its page of the site.
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
import torch
from nbclient import NotebookClient

from ssd_tutorial.readers import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT/"docs"/"runs.json"
SKIP = re.compile(r"^#\|\s*eval:\s*false", re.MULTILINE)
FLAG = re.compile(r"^skip_exec:\s*true", re.MULTILINE)


def mark(nb, tag="skip-execution"):
    "Tag the cells that are not to be run."
    for c in nb.cells:
        skipped = c.cell_type == "code" and SKIP.search(c.source)
        if skipped: c.metadata.setdefault("tags", []).append(tag)


def unmark(nb):
    "Drop the tags, the timestamps and the widget state of the run."
    nb.metadata.pop("widgets", None)
    for c in nb.cells: c.metadata.clear()


def facts(seconds):
    "What this machine runs notebooks on."
    device = f"a CPU ({os.cpu_count()} cores)"
    if torch.cuda.is_available(): device = torch.cuda.get_device_name()
    return {
        "date": date.today().isoformat(),
        "seconds": round(seconds),
        "python": platform.python_version(),
        "device": device,
        "versions": {k: version(k) for k in ("torch", "torchvision", "fastai")},
    }


def note(name, run, path=RUNS):
    "Replace the entry of one notebook."
    runs = json.loads(path.read_text(encoding="utf-8"))
    runs[name] = run
    text = json.dumps(dict(sorted(runs.items())), indent=1) + "\n"
    with atomic_write(path) as part: part.write_text(text, encoding="utf-8")


def run(path, everything=False):
    "Run one notebook in its own folder; it is replaced when all went well."
    nb = nbformat.read(path, 4)
    if not everything and FLAG.search(nb.cells[0].source):
        print(f"{path}: left as it is", flush=True)
        return
    start = time.time()
    mark(nb)
    folder = {"metadata": {"path": str(path.parent)}}
    # what a cell prints is one output, in however many pieces it came
    client = NotebookClient(nb, timeout=1200, kernel_name="python3", resources=folder,
                            coalesce_streams=True)
    client.execute()
    unmark(nb)
    seconds = time.time() - start
    text = nbformat.writes(nb) + "\n"
    with atomic_write(path) as part: part.write_text(text, encoding="utf-8")
    note(path.resolve().relative_to(ROOT/"nbs").with_suffix("").as_posix(), facts(seconds))
    print(f"{path}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    paths = [a for a in sys.argv[1:] if a != "--all"]
    for p in paths: run(Path(p), everything="--all" in sys.argv)
