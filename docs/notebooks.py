"What a notebook needs to become a page: nbdev's directives become MyST-NB's tags, backticked names become links."
import json
import re
import struct
from base64 import b64decode

from api import ROOT, linked, modules

HEAD = re.compile(r"(?:#\|.*(?:\n|$))+")                       # the lines `#| name: value` that begin a cell
BADGE = re.compile(r"^\[!\[.*\]\(.*\)\n?", re.MULTILINE)       # pictures of other hosts; the page has buttons of its own
MODULE = re.compile(rf"\| `({'|'.join(m.name for m in modules())})` \|$", re.MULTILINE)    # in the list of chapters
START = """

```{toctree}
:hidden:
:caption: Start
first_look
```"""
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
glossary
differences
api/index
```
"""


def directives(source):
    "Directives at the head of a cell, and the source without them."
    head = HEAD.match(source)
    if not head: return {}, source
    pairs = re.findall(r"^#\|\s*([\w-]+):?[ \t]*(.*?)\s*$", head[0], re.MULTILINE)
    return {k: v[1:-1].replace('\\"', '"') if v.startswith('"') else v for k, v in pairs}, source[head.end():].lstrip("\n")


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
    cap = opts.get("fig-cap", "")
    alt = opts.get("fig-alt") or re.sub("[`$*]", "", cap)
    cell["metadata"]["mystnb"] = {k: v for k, v in dict(figure={"caption": linked(cap)}, image={"alt": alt}).items() if any(v.values())}
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
        else: cell["source"] = linked(MODULE.sub(r"| [`\1`](api/\1.md) |", BADGE.sub("", cell["source"])))
    run = json.loads((ROOT/"docs"/"runs.json").read_text()).get(name)
    first = next(c for c in nb["cells"] if c["cell_type"] == "markdown")
    if run: first["source"] = re.sub(r"^(> .*\n?)", lambda m: f"{m[0]}\n{ran_on(run)}\n", first["source"], count=1, flags=re.MULTILINE)
    if name == "index": first["source"] += START * (ROOT/"nbs"/"first_look.ipynb").exists() + CONTENTS


def sized(app, pagename, template, context, doctree):
    "Sizes of pictures as attributes: a style would keep the height where the page is narrow. Drawings know their own."
    size = r'style="width: ([\d.]+)px; height: ([\d.]+)px;"'
    body = re.sub(size, lambda m: f'width="{float(m[1]):.0f}" height="{float(m[2]):.0f}"', context.get("body", ""))
    drawn = lambda m: m[0] + re.search(r' width="\d+" height="\d+"', (ROOT/"nbs"/"images"/m[1]).read_text(encoding="utf-8"))[0]
    context["body"] = re.sub(r'<img alt="[^"]*" src="[^"]*/([\w-]+\.svg)"(?= />)', drawn, body)


def source_read(app, docname, source):
    if not source[0].startswith("{"): return
    nb = json.loads(source[0])
    page(nb, docname)
    source[0] = json.dumps(nb)
