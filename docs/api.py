"The API reference, from the text of the modules: signatures, docstrings, docments as a table."
import ast
import io
import json
import re
import tokenize
from functools import cache
from pathlib import Path

from mdit_py_plugins.anchors.index import slugify

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"(?<![`\\{}\[])`([A-Za-z_][\w.]*)(\([^`<>\n]*\))?`(?![`\]])")
BLOCK = re.compile(r"(^```.*?^```$|^#[^\n]*$)", re.MULTILINE | re.DOTALL)    # code, and titles
CELL = re.compile(r"%% .*#(\w+)$")                # the comment that nbdev puts over each cell
HEADS = ["| parameter | type | default | meaning |", "|---|---|---|---|"]


class Module:
    "The text of a module: its tree, and the comment that each line ends with."
    def __init__(self, path):
        self.name = path.stem
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.chapter = re.search(r"File to edit: \.\./nbs/([\w/]+)\.ipynb", self.text)[1]
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        comments = [t for t in tokens if t.type == tokenize.COMMENT]
        self.comments = {t.start[0]: t.string.lstrip("# ") for t in comments}

    def public(self):
        "Name -> node in the order of the text; `Class.method` follows its class."
        assigns = [n for n in self.tree.body if isinstance(n, ast.Assign)]
        listed = next(n for n in assigns if ast.unparse(n.targets[0]) == "__all__")
        wanted = ast.literal_eval(listed.value)
        found = {}
        for node in self.tree.body: found |= entries(node, wanted)
        # a method that is patched in further down stands by its class
        def place(item): return found.get(item[0].split(".")[0], item[1]).lineno
        return dict(sorted(found.items(), key=place))

    def parameters(self, node):
        "Rows (name, type, default, meaning) of a function or class; last what it returns."
        if isinstance(node, ast.ClassDef):
            init = [m for m in node.body if getattr(m, "name", "") == "__init__"]
            if init: return self.parameters(init[0])
            fields = fields_of_class(node)
            described = True
        else:
            fields = fields_of_function(node)
            # on one line with the body, a comment is about that
            described = node.body[0].lineno > node.lineno
        # of several on a line, the last one is next to the comment
        owners = {line: name for name, *_, line in fields}
        rows = []
        for name, kind, default, line in fields:
            meaning = self.comments.get(line, "") if described and owners[line] == name else ""
            # fastcore's Param holds its own help
            if isinstance(kind, ast.Call):
                meaning = kind.args[0].value
                kind = None
            rows.append((name, source(kind), source(default), meaning))
        return rows

    def section(self, line):
        "Title and link of the part of the chapter that the code on a line comes from."
        path = ROOT/"nbs"/f"{self.chapter}.ipynb"
        above = [CELL.match(self.comments[n]) for n in sorted(self.comments) if n < line]
        cell = [m[1] for m in above if m][-1]
        titles = titles_above(json.loads(path.read_text(encoding="utf-8"))["cells"], cell)
        slug = "#" + slugify(titles[-1]) if len(titles) > 1 else ""
        text = ": ".join(dict.fromkeys([titles[0], titles[-1]]))
        return f"[{text}](../{self.chapter}.ipynb{slug})"

    def entry(self, name, node):
        "One name of the page."
        where = "" if "." in name else f"Taught in {self.section(node.lineno)}.\n\n"
        if isinstance(node, ast.Assign):
            text = ast.get_source_segment(self.text, node)
            return f"```{{py:data}} {name}\n```\n{where}```python\n{text}\n```\n"
        kind = kind_of(name, node)
        rows = self.parameters(node)
        call = ", ".join(n + (f"={d}" if d else "") for n, _, d, _ in rows if n != "returns")
        head = f"````{{py:{kind}}} {name}" + (f"({call})" if kind != "property" else "")
        flag = ":classmethod:" if "cls" in first_arguments(node) else ""
        lines = [head, flag, "", ast.get_docstring(node) or "", "", where]
        if any(kind or meaning for _, kind, _, meaning in rows):
            lines += [*HEADS, *map(table_row, rows)]
        return "\n".join([*lines, "````", ""])

    def page(self):
        "The page of the module, in MyST."
        head = f"# {self.name}\n\n> {ast.get_docstring(self.tree)}\n\n"
        module = f"```{{py:module}} ssd_tutorial.{self.name}\n```\n\n"
        body = "\n".join(self.entry(*item) for item in self.public().items())
        return linked(head + module + body)


def source(node):
    "Text of a part of the tree; of none, nothing."
    return ast.unparse(node) if node else ""


def decorators(node):
    "Text of what stands over a function or class."
    return [ast.unparse(d) for d in getattr(node, "decorator_list", [])]


def first_arguments(node):
    "The name of the first argument of a function, in a list; of a class, nothing."
    return [] if isinstance(node, ast.ClassDef) else [a.arg for a in node.args.args[:1]]


def entries(node, wanted):
    "Public name -> node of one statement of a module."
    if isinstance(node, ast.Assign):
        names = [t.id for t in ast.walk(node.targets[0]) if isinstance(t, ast.Name)]
        return {name: node for name in names if name in wanted}
    if any("patch" in d for d in decorators(node)):
        # `self: Class` says whose method it is
        return {f"{ast.unparse(node.args.args[0].annotation)}.{node.name}": node}
    if getattr(node, "name", None) not in wanted: return {}
    if isinstance(node, ast.FunctionDef): return {node.name: node}
    methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name[0] != "_"]
    return {node.name: node} | {f"{node.name}.{m.name}": m for m in methods}


def fields_of_class(node):
    "Name, type, default and last line of the fields of a dataclass or named tuple."
    fields = [f for f in node.body if isinstance(f, ast.AnnAssign)]
    return [(f.target.id, f.annotation, f.value, f.end_lineno) for f in fields]


def fields_of_function(node):
    "Name, type, default and last line of the arguments, and of what comes back."
    a = node.args
    # the defaults belong to the last arguments
    defaults = [None] * (len(a.args) - len(a.defaults)) + a.defaults + a.kw_defaults
    pairs = list(zip(a.args + a.kwonlyargs, defaults))
    if pairs and pairs[0][0].arg in ("self", "cls"): pairs.pop(0)
    fields = [(p.arg, p.annotation, d, (d or p).end_lineno) for p, d in pairs]
    for star, p in (("*", a.vararg), ("**", a.kwarg)):
        if p: fields.append((star + p.arg, p.annotation, None, p.end_lineno))
    if node.returns: fields.append(("returns", node.returns, None, node.returns.end_lineno))
    return fields


def titles_above(cells, cell_id):
    "Titles of a chapter and its sections, as far as a cell."
    titles = []
    for cell in cells:
        if cell["id"] == cell_id: break
        if cell["cell_type"] != "markdown": continue
        blocks = BLOCK.findall("".join(cell["source"]))
        titles += [b.lstrip("# ") for b in blocks if re.match("##? ", b)]
    return titles


def kind_of(name, node):
    "What Sphinx calls it."
    if isinstance(node, ast.ClassDef): return "class"
    if "property" in decorators(node): return "property"
    return "method" if "." in name else "function"


def table_row(row):
    "A row of parameters in Markdown; a `|` would end the cell."
    *code, meaning = (t.replace("|", "\\|") for t in row)
    def cell(text):
        if text == "returns": return "*returns*"
        return f"`{text}`" if text else ""
    return "| " + " | ".join([*map(cell, code), meaning]) + " |"


@cache
def modules():
    "Modules in the order of their chapters."
    paths = [p for p in (ROOT/"ssd_tutorial").glob("*.py") if p.name[0] != "_"]
    return sorted(map(Module, paths), key=lambda m: m.chapter)


@cache
def names():
    "Public name -> the name that Sphinx knows it by."
    return {n: f"ssd_tutorial.{m.name}.{n}" for m in modules() for n in m.public()}


# names of classes that are folders of the readers, too
WORDS = {"Annotations"}


def linked(text):
    "Backticked public names become links to the API reference; code and titles stay."
    def link(m):
        name, call = m.groups(default="")
        if name not in names() or name in WORDS: return m[0]
        return f"{{py:obj}}`{name}{call} <{names()[name]}>`"
    # split at a group: every second part is code or a title
    parts = BLOCK.split(text)
    return "".join(t if i % 2 else CODE.sub(link, t) for i, t in enumerate(parts))


INDEX = """\
# API reference

> Every public name of the package, by module.

| module | what is in it |
|---|---|
{rows}

```{{toctree}}
:hidden:
{names}
```
"""


def pages():
    "File name -> text of all pages."
    rows = [f"| [{m.name}]({m.name}.md) | {ast.get_docstring(m.tree)} |" for m in modules()]
    listed = [m.name for m in modules()]
    index = INDEX.format(rows="\n".join(rows), names="\n".join(listed))
    return {"index.md": index} | {f"{m.name}.md": m.page() for m in modules()}
