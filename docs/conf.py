"The docs site: nbs/ and the API pages are put together in _proc/site, which Sphinx reads."
import sys
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import myst_nb.sphinx_ext

sys.path.insert(0, str(Path(__file__).parent))
import api  # noqa: E402
import notebooks  # noqa: E402

ROOT = api.ROOT

cfg = ConfigParser(delimiters=["="])
cfg.read(ROOT/"settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]

project, author, copyright, release = cfg["repo"], cfg["author"], cfg["copyright"], cfg["version"]
extensions = ["myst_nb", "sphinx_copybutton"]
exclude_patterns = ["**/.ipynb_checkpoints"]

# Notebooks are shown with the outputs they are committed with. What a cell writes to stderr is a warning here: the build stops.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove-warn"
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
myst_nb.sphinx_ext.OUTPUT_FOLDER = "_proc/pictures"
myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_title = cfg["repo"]
html_favicon = "_static/favicon.svg"
html_static_path = ["_static", find_spec("sphinx-mathjax-offline").submodule_search_locations[0] + "/static/mathjax/tex-svg.js"]
html_css_files, html_js_files = (sorted(p.name for p in (ROOT/"docs"/"_static").glob(f"*.{kind}")) for kind in ("css", "js"))
html_copy_source, html_show_sphinx = True, False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "repository_url": cfg["git_url"], "repository_branch": cfg["branch"], "path_to_docs": cfg["nbs_path"], "use_repository_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "navbar_start": [], "navbar_center": [], "navbar_end": [], "navbar_persistent": [],
}
mathjax_path = "tex-svg.js"


def gather(app):
    "Chapters and pictures from nbs/, API pages from the modules. What has not changed stays untouched, so that it is not built again."
    wanted = {p.relative_to(ROOT/"nbs"): p.read_bytes() for p in (ROOT/"nbs").rglob("*.*")
              if p.suffix in {".ipynb", ".png", ".svg"} and not {"data", ".ipynb_checkpoints"} & set(p.parts)}
    wanted |= {Path("api")/name: text.encode() for name, text in api.pages().items()}
    for old in [p for p in app.srcdir.rglob("*.*") if p.is_file() and p.relative_to(app.srcdir) not in wanted]: old.unlink()
    for name, data in wanted.items():
        path = Path(app.srcdir)/name
        if path.is_file() and path.read_bytes() == data: continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def setup(app):
    app.add_config_value("made_with", [(ROOT/"docs"/f).read_text() for f in ("api.py", "notebooks.py", "runs.json")], "env")   # a change builds all
    app.connect("builder-inited", gather)
    app.connect("source-read", notebooks.source_read)
    app.connect("html-page-context", notebooks.sized)
