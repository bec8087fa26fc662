"What makes a notebook a page: nbdev's directives become MyST-NB's tags, names become links."
import json
import re
from base64 import b64decode
from io import BytesIO

from PIL import Image

from api import ROOT, linked, modules

# the lines `#| name: value` that begin a cell
HEAD = re.compile(r"(?:#\|.*(?:\n|$))+")
DIRECTIVE = re.compile(r"^#\|\s*([\w-]+):?[ \t]*(.*?)\s*$", re.MULTILINE)
# pictures of other hosts; the page has buttons of its own
BADGE = re.compile(r"^\[!\[.*\]\(.*\)\n?", re.MULTILINE)
# the last column in the list of chapters
MODULE = re.compile(rf"\| `({'|'.join(m.name for m in modules())})` \|$", re.MULTILINE)
TITLE = re.compile(r"\A# ")
SUBTITLE = re.compile(r"^(> .*\n?)", re.MULTILINE)
SIZE = re.compile(r'style="width: ([\d.]+)px; height: ([\d.]+)px;"')
FIGURE = re.compile(r'<img alt="[^"]*" height="\d+" src="[^"]*" width="(\d+)"(?= />)')
DRAWING = re.compile(r'<img alt="[^"]*" src="[^"]*/([\w-]+\.(?:svg|jpg))"(?= />)')
START = """

```{toctree}
:hidden:
:caption: Start
first_look
live
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
:caption: Tutorials
tutorials/life_of_a_box
tutorials/own_data
tutorials/blood_cells
tutorials/pascal
```
```{toctree}
:hidden:
:caption: Reference
glossary
differences
promises
api/index
```
"""


def directives(source):
    "Directives at the head of a cell, and the source without them."
    head = HEAD.match(source)
    if not head: return {}, source
    options = {}
    for name, value in DIRECTIVE.findall(head[0]):
        quoted = value.startswith('"')
        options[name] = value[1:-1].replace('\\"', '"') if quoted else value
    return options, source[head.end():].lstrip("\n")


def ran_on(run):
    "The line below the subtitle."
    versions = ", ".join(f"{k} {v}" for k, v in run["versions"].items())
    return (f'<p class="run">Run on {run["date"]} in {run["seconds"]} s '
            f'with Python {run["python"]}, {versions}, on {run["device"]}.</p>')


def tags_of(options, source):
    "MyST-NB's tags for nbdev's directives; a solution keeps what it prints to itself."
    if {"hide", "default_exp"} & set(options): return ["remove-cell"]
    if options.get("echo") == "false": return ["remove-input"]
    if options.get("code-fold") != "true": return []
    return ["hide-cell" if source.startswith("# Solution") else "hide-input"]


def code_cell(cell):
    "Tags and figure of a code cell."
    options, cell["source"] = directives(cell["source"])
    if tags := tags_of(options, cell["source"]): cell["metadata"]["tags"] = tags
    caption = options.get("fig-cap", "")
    alt = options.get("fig-alt") or re.sub("[`$*]", "", caption)
    figure = {}
    if caption: figure["figure"] = {"caption": linked(caption)}
    if alt: figure["image"] = {"alt": alt}
    cell["metadata"]["mystnb"] = figure
    for output in cell["outputs"]:
        png = output.get("data", {}).get("image/png")
        if png: output["metadata"].setdefault("image/png", size_of("".join(png).strip()))


def size_of(png):
    "Width and height of a picture, so that the page does not jump while it loads."
    width, height = Image.open(BytesIO(b64decode(png))).size
    return {"width": width, "height": height}


def text_cell(cell):
    "Links of a markdown cell."
    text = BADGE.sub("", cell["source"])
    cell["source"] = linked(MODULE.sub(r"| [`\1`](api/\1.md) |", text))


def page(nb, name):
    "One notebook, changed in place."
    for cell in nb["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "code": code_cell(cell)
        elif cell["cell_type"] == "markdown": text_cell(cell)
        else: cell["metadata"]["tags"] = ["remove-cell"]
    first = next(c for c in nb["cells"] if c["cell_type"] == "markdown")
    # the number of a chapter, as on the map and in the table of the home page
    if re.match(r"\d\d_", name): first["source"] = TITLE.sub(rf"# {name[:2]} ", first["source"])
    run = json.loads((ROOT/"docs"/"runs.json").read_text()).get(name)
    if run:
        line = ran_on(run)
        first["source"] = SUBTITLE.sub(lambda m: f"{m[0]}\n{line}\n", first["source"], count=1)
    if name == "index": first["source"] += START + CONTENTS


def sized(app, pagename, template, context, doctree):
    "Sizes of pictures as attributes: a style would keep the height where the page is narrow."
    def attributes(m): return f'width="{float(m[1]):.0f}" height="{float(m[2]):.0f}"'
    body = SIZE.sub(attributes, context.get("body", ""))

    # drawings and photographs know their own
    def drawn(m):
        file = ROOT/"nbs"/"images"/m[1]
        if file.suffix == ".jpg":
            width, height = Image.open(file).size
            return f'{m[0]} width="{width}" height="{height}"'
        return m[0] + re.search(r' width="\d+" height="\d+"', file.read_text("utf-8"))[0]
    # a phone shows wide figures at a size that can be read, and scrolls them
    def marked(m): return f"{m[0]} data-wide" if int(m[1]) > 700 else m[0]
    context["body"] = FIGURE.sub(marked, DRAWING.sub(drawn, body))


def source_read(app, docname, source):
    "The text of a page before Sphinx parses it: the list `source` holds it, and is changed."
    if not source[0].startswith("{"): return
    nb = json.loads(source[0])
    page(nb, docname)
    source[0] = json.dumps(nb)
