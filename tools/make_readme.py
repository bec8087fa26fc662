"Make README.md from nbs/index.ipynb: the cells that are shown; pictures go to docs/images."
import base64
import re
import sys
from pathlib import Path

import nbformat

from ssd_tutorial.readers import atomic_write

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/"docs"))
from notebooks import directives  # noqa: E402

RAW = "https://raw.githubusercontent.com/ssd-tutorial/ssd_tutorial/main/"
BLOB = "https://github.com/ssd-tutorial/ssd_tutorial/blob/main/"
PICTURES = ROOT/"docs"/"images"
NOTE = "<!-- Made from nbs/index.ipynb by `make readme`; change it there. -->\n\n"


def output(o, name, alt):
    "One output as Markdown: text as a block, a picture as a file; HTML is left out."
    data = o.get("data", {})
    if "image/png" in data:
        PICTURES.mkdir(parents=True, exist_ok=True)
        with atomic_write(PICTURES/name) as part:
            part.write_bytes(base64.b64decode(data["image/png"]))
        return f"![{alt}]({RAW}docs/images/{name})"
    # a progress bar and a table have text, too, but not for readers
    is_value = o.output_type == "execute_result" and "text/html" not in data
    text = o.get("text") or (data.get("text/plain", "") if is_value else "")
    return f"```\n{text.rstrip()}\n```" if text.strip() else ""


def readme(nb):
    "Text of the README; the links work on GitHub and on the package index."
    parts = []
    for c in nb.cells:
        opts, source = directives(c.source)
        if "hide" in opts or c.cell_type == "raw": continue
        shown = source if c.cell_type == "markdown" else f"```python\n{source}\n```"
        if opts.get("echo") != "false": parts.append(shown)
        for k, o in enumerate(c.get("outputs", [])):
            parts.append(output(o, f"readme_{c.id}_{k}.png", opts.get("fig-cap")))
    text = "\n\n".join(filter(None, parts))
    text = re.sub(r"\]\(([\w/]+\.ipynb)\)", rf"]({BLOB}nbs/\1)", text)
    # raw files of GitHub are served as pictures, SVG, too
    return re.sub(r"\]\((images/[\w.]+)\)", rf"]({RAW}nbs/\1)", text) + "\n"


def main():
    text = NOTE + readme(nbformat.read(ROOT/"nbs"/"index.ipynb", 4))
    with atomic_write(ROOT/"README.md") as part: part.write_text(text, encoding="utf-8")
    # pictures of earlier runs, once the new README is there
    for old in PICTURES.glob("readme_*.png"):
        if old.name not in text: old.unlink()


if __name__ == "__main__": main()
