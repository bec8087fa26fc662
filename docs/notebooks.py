"What a notebook needs to become a page: nbdev's directives become MyST-NB's tags, backticked names become links."
import json
import re
import struct
from base64 import b64decode

from api import ROOT, linked

HEAD = re.compile(r"(?:#\|.*(?:\n|$))+")                       # the lines `#| name: value` that begin a cell
BADGE = re.compile(r"^\[!\[.*\]\(.*\)\n?", re.MULTILINE)       # pictures of other hosts; the page has buttons of its own
CONTENTS = """
```{toctree}
:hidden:
:glob:
:caption: Chapters
[0-9]*
```
```{toctree}
:hidden:
:glob:
:caption: Tutorials
tutorials/*
```
```{toctree}
:hidden:
:caption: Reference
api/index
```
"""


def directives(source):
    "Directives at the head of a cell, and the source without them."
    head = HEAD.match(source)
    if not head: return {}, source
    pairs = re.findall(r"^#\|\s*([\w-]+):?[ \t]*(.*?)\s*$", head[0], re.MULTILINE)
    return {k: v.strip('"') for k, v in pairs}, source[head.end():].lstrip("\n")


def ran_on(run):
    "The line below the subtitle."
    return (f'<p class="run">Run on {run["date"]} in {run["seconds"]} s with Python {run["python"]}, '
            f'{", ".join(f"{k} {v}" for k, v in run["versions"].items())}, on {run["device"]}.</p>')


def code_cell(cell):
    "Tags and figure of a code cell."
    opts, cell["source"] = directives(cell["source"])
    if {"hide", "default_exp"} & set(opts): cell["metadata"]["tags"] = ["remove-cell"]
    elif opts.get("echo") == "false": cell["metadata"]["tags"] = ["remove-input"]
    elif opts.get("code-fold") == "true": cell["metadata"]["tags"] = ["hide-input"]
    cap, alt = opts.get("fig-cap"), opts.get("fig-alt") or opts.get("fig-cap")
    cell["metadata"]["mystnb"] = {**({"figure": {"caption": cap}} if cap else {}), **({"image": {"alt": alt}} if alt else {})}
    for o in cell["outputs"]:
        if png := o.get("data", {}).get("image/png"):          # its size, so that the page does not jump while it loads
            w, h = struct.unpack(">II", b64decode("".join(png).strip()[:32])[16:24])
            o["metadata"].setdefault("image/png", {"width": w, "height": h})


def page(nb, name):
    "One notebook, changed in place."
    for cell in nb["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "code": code_cell(cell)
        elif cell["cell_type"] == "raw": cell["metadata"]["tags"] = ["remove-cell"]
        else: cell["source"] = linked(BADGE.sub("", cell["source"]))
    run = json.loads((ROOT/"docs"/"runs.json").read_text()).get(name)
    first = next(c for c in nb["cells"] if c["cell_type"] == "markdown")
    if run: first["source"] = re.sub(r"^(> .*\n?)", lambda m: f"{m[0]}\n{ran_on(run)}\n", first["source"], count=1, flags=re.MULTILINE)
    if name == "index": nb["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": CONTENTS})


def source_read(app, docname, source):
    if not source[0].startswith("{"): return
    nb = json.loads(source[0])
    page(nb, docname)
    source[0] = json.dumps(nb)
