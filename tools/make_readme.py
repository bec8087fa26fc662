"Make README.md from nbs/index.ipynb: text and outputs of the cells that are shown, pictures of the run in docs/images."
import base64
import os
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/"docs"))
from notebooks import directives  # noqa: E402

RAW = "https://raw.githubusercontent.com/ssd-tutorial/ssd_tutorial/main/"
PICTURES = ROOT/"docs"/"images"
BLOB = "https://github.com/ssd-tutorial/ssd_tutorial/blob/main/"


def write(path, data):
    "Write beside, then rename."
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(data)
    os.replace(part, path)


def output(o, name, alt):
    "One output as Markdown: text as a block, a picture as a file; HTML (progress, tables of the run) is left out."
    data = o.get("data", {})
    if "image/png" in data:
        write(PICTURES/name, base64.b64decode(data["image/png"]))
        return f"![{alt}]({RAW}docs/images/{name})"
    text = o.get("text") or ("" if "text/html" in data or o.output_type != "execute_result" else data.get("text/plain", ""))
    return f"```\n{text.rstrip()}\n```" if text.strip() else ""


def readme(nb):
    parts = []
    for c in nb.cells:
        opts, source = directives(c.source)
        if "hide" in opts or c.cell_type == "raw": continue
        if opts.get("echo") != "false": parts.append(source if c.cell_type == "markdown" else f"```python\n{source}\n```")
        parts += [output(o, f"readme_{c.id}_{k}.png", opts.get("fig-cap")) for k, o in enumerate(c.get("outputs", []))]
    text = re.sub(r"\]\(([\w/]+\.ipynb)\)", rf"]({BLOB}nbs/\1)", "\n\n".join(filter(None, parts)))
    return re.sub(r"\]\((images/[\w.]+)\)", rf"]({RAW}nbs/\1)", text) + "\n"     # numpy's README shows its SVG from there, too


if __name__ == "__main__":
    text = readme(nbformat.read(ROOT/"nbs"/"index.ipynb", 4))
    write(ROOT/"README.md", ("<!-- Made from nbs/index.ipynb by `make readme`; change it there. -->\n\n" + text).encode())
    for old in PICTURES.glob("readme_*.png"):
        if old.name not in text: old.unlink()
