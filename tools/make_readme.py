"Make README.md from nbs/index.ipynb: text and outputs of the cells that are shown, the result picture in docs/images."
import base64
import os
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
RAW = "https://raw.githubusercontent.com/ssd-tutorial/ssd_tutorial/main/"
BLOB = "https://github.com/ssd-tutorial/ssd_tutorial/blob/main/"


def write(path, data):
    "Write beside, then rename."
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(data)
    os.replace(part, path)


def output(o, name):
    "One output as Markdown: text as a block, a picture as a file; HTML (progress, tables of the run) is left out."
    data = o.get("data", {})
    if "image/png" in data:
        write(ROOT/"docs"/"images"/name, base64.b64decode(data["image/png"]))
        return f"![Boxes that the detector has found in a picture it had not seen]({RAW}docs/images/{name})"
    text = o.get("text") or ("" if "text/html" in data or o.output_type != "execute_result" else data.get("text/plain", ""))
    return f"```\n{text.rstrip()}\n```" if text.strip() else ""


def readme(nb):
    parts = []
    for i, c in enumerate(nb.cells):
        if "#| hide" in c.source or c.cell_type == "raw": continue
        parts.append(c.source if c.cell_type == "markdown" else f"```python\n{c.source}\n```")
        parts += [t for k, o in enumerate(c.get("outputs", [])) if (t := output(o, f"readme_{i}_{k}.png"))]
    text = "\n\n".join(parts)
    return re.sub(r"\]\(([\w/]+\.ipynb)\)", rf"]({BLOB}nbs/\1)", text) + "\n"


if __name__ == "__main__":
    text = readme(nbformat.read(ROOT/"nbs"/"index.ipynb", 4))
    write(ROOT/"README.md", ("<!-- Made from nbs/index.ipynb by `make readme`; change it there. -->\n\n" + text).encode())
