"The docs site: nbs/ and the API pages are put together in _proc/site, which Sphinx reads."
import sys
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import myst_nb.sphinx_ext

sys.path.insert(0, str(Path(__file__).parent))
import api  # noqa: E402
import notebooks  # noqa: E402
import onnxruntime_web  # noqa: E402

ROOT = api.ROOT
SHOWN = {".ipynb", ".jpg", ".png", ".svg"}
STATIC = ROOT/"docs"/"_static"

cfg = ConfigParser(delimiters=["="])
cfg.read(ROOT/"settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]

project = cfg["repo"]
author = cfg["author"]
copyright = cfg["copyright"]
release = cfg["version"]
extensions = ["myst_nb", "sphinx_copybutton"]
exclude_patterns = ["**/.ipynb_checkpoints"]

# Notebooks are shown with the outputs they are committed with. What a cell writes to stderr is
# a warning here: the build stops.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove-warn"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_nb.sphinx_ext.OUTPUT_FOLDER = "_proc/pictures"
myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

# MathJax from a package, as nothing may come from other hosts
mathjax_path = "tex-svg.js"
mathjax = find_spec("sphinx-mathjax-offline").submodule_search_locations[0]

html_theme = "sphinx_book_theme"
html_title = cfg["repo"]
html_favicon = "_static/favicon.svg"
onnxruntime = onnxruntime_web.fetch(ROOT/"_proc"/"onnxruntime")
html_static_path = ["_static", f"{mathjax}/static/mathjax/{mathjax_path}", str(onnxruntime)]
html_css_files = sorted(p.name for p in STATIC.glob("*.css"))
# sorted, so play.js comes before the figures that build on it
html_js_files = sorted(p.name for p in STATIC.glob("*.js"))
html_copy_source = True
html_show_sphinx = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "repository_url": cfg["git_url"],
    "repository_branch": cfg["branch"],
    "path_to_docs": "nbs",
    "use_repository_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "navbar_start": [], "navbar_center": [], "navbar_end": [], "navbar_persistent": [],
}


def wanted_files():
    "Path below _proc/site -> content: chapters and pictures from nbs/, API pages."
    nbs = ROOT/"nbs"
    skipped = {"data", ".ipynb_checkpoints"}
    paths = [p for p in nbs.rglob("*.*") if p.suffix in SHOWN and not skipped & set(p.parts)]
    wanted = {p.relative_to(nbs): p.read_bytes() for p in paths}
    return wanted | {Path("api")/name: text.encode() for name, text in api.pages().items()}


def gather(app):
    "Put the sources together."
    wanted = wanted_files()
    there = [p for p in app.srcdir.rglob("*.*") if p.is_file()]
    for path in there:
        if path.relative_to(app.srcdir) not in wanted: path.unlink()
    for name, data in wanted.items():
        path = Path(app.srcdir)/name
        # a file that is written again is built again
        if path.is_file() and path.read_bytes() == data: continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def setup(app):
    # when one of these changes, all pages are built again
    makers = [(ROOT/"docs"/f).read_text() for f in ("api.py", "notebooks.py", "runs.json")]
    app.add_config_value("made_with", makers, "env")
    app.connect("builder-inited", gather)
    app.connect("source-read", notebooks.source_read)
    app.connect("html-page-context", notebooks.sized)
