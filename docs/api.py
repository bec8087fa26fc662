"The API reference, from the text of the modules: signatures, one-line docstrings, and docments as a table."
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


class Module:
    "The text of a module: its tree, and the comment that each line ends with."
    def __init__(self, path):
        self.name, self.text = path.stem, path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        self.comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
        self.chapter = re.search(r"File to edit: \.\./nbs/([\w/]+)\.ipynb", self.text)[1]

    def public(self):
        "Name -> node in the order of the text; methods are called `Class.method` and follow their class."
        wanted = next(ast.literal_eval(n.value) for n in self.tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
        found = {}
        for n in self.tree.body:
            if isinstance(n, ast.Assign): found |= {t.id: n for t in ast.walk(n.targets[0]) if isinstance(t, ast.Name) and t.id in wanted}
            elif "patch" in str([ast.unparse(d) for d in getattr(n, "decorator_list", [])]):
                found[f"{ast.unparse(n.args.args[0].annotation)}.{n.name}"] = n
            elif getattr(n, "name", None) in wanted:
                methods = n.body if isinstance(n, ast.ClassDef) else []
                found |= {n.name: n} | {f"{n.name}.{m.name}": m for m in methods if isinstance(m, ast.FunctionDef) and m.name[0] != "_"}
        return dict(sorted(found.items(), key=lambda kv: found[kv[0].split(".")[0]].lineno))

    def parameters(self, node):
        "Rows (name, type, default, meaning) of a function, or of a class: of its `__init__`, or its fields; the last row is what comes back."
        if isinstance(node, ast.ClassDef):
            init = [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"]
            if init: return self.parameters(init[0])
            fields = [(f.target.id, f.annotation, f.value, f.end_lineno) for f in node.body if isinstance(f, ast.AnnAssign)]
        else:
            a = node.args
            defaults = [None] * (len(a.args) - len(a.defaults)) + a.defaults + a.kw_defaults
            fields = [(p.arg, p.annotation, d, (d or p).end_lineno) for p, d in zip(a.args + a.kwonlyargs, defaults)]
            if fields and fields[0][0] in ("self", "cls"): fields.pop(0)
            fields += [(star + p.arg, p.annotation, None, p.end_lineno) for star, p in (("*", a.vararg), ("**", a.kwarg)) if p]
            if node.returns: fields.append(("returns", node.returns, None, node.returns.end_lineno))
        owner = {line: name for name, _, _, line in fields}                # the last on its line
        if not isinstance(node, ast.ClassDef) and node.body[0].lineno == node.lineno: owner = {}
        text = lambda n: ast.unparse(n) if n else ""
        rows = []
        for name, kind, default, line in fields:
            meaning = self.comments.get(line, "") if owner.get(line) == name else ""
            if isinstance(kind, ast.Call): kind, meaning = None, kind.args[0].value      # fastcore's Param, which holds its own help
            rows.append((name, text(kind), text(default), meaning))
        return rows

    def section(self, line):
        "Title and link of the part of the chapter that the code on a line comes from."
        nb = json.loads((ROOT/"nbs"/f"{self.chapter}.ipynb").read_text(encoding="utf-8"))
        cell = next((c.split("#")[-1] for n, c in sorted(self.comments.items(), reverse=True) if n < line and c.startswith("%% ")), None)
        titles = []
        for c in nb["cells"]:
            if c["id"] == cell: break
            if c["cell_type"] == "markdown": titles += [t.lstrip("# ") for t in BLOCK.findall("".join(c["source"])) if re.match("##? ", t)]
        slug = "#" + slugify(titles[-1]) if len(titles) > 1 else ""
        return f"[{': '.join(dict.fromkeys([titles[0], titles[-1]]))}](../{self.chapter}.ipynb{slug})"

    def entry(self, name, node):
        "One name of the page."
        where = "" if "." in name else f"Taught in {self.section(node.lineno)}.\n\n"
        if isinstance(node, ast.Assign):
            return f"```{{py:data}} {name}\n```\n{where}```python\n{ast.get_source_segment(self.text, node)}\n```\n"
        decorators = str([ast.unparse(d) for d in node.decorator_list])
        kind = "class" if isinstance(node, ast.ClassDef) else "property" if "'property'" in decorators else "method" if "." in name else "function"
        rows = self.parameters(node)
        call = ", ".join(n + (f"={d}" if d else "") for n, _, d, _ in rows if n != "returns")
        lines = [f"````{{py:{kind}}} {name}" + (f"({call})" if kind != "property" else ""), ":classmethod:" * ("cls" in decorators), "",
                 ast.get_docstring(node) or "", "", where]
        if any(kind or meaning for _, kind, _, meaning in rows):
            lines += ["| parameter | type | default | meaning |", "|---|---|---|---|", *map(table_row, rows)]
        return "\n".join([*lines, "````", ""])

    def page(self):
        "The page of the module, in MyST."
        body = "\n".join(self.entry(*item) for item in self.public().items())
        return linked(f"# {self.name}\n\n> {ast.get_docstring(self.tree)}\n\n```{{py:module}} ssd_tutorial.{self.name}\n```\n\n{body}")


def table_row(row):
    "A row of parameters in Markdown; a `|` would end the cell."
    *code, meaning = (t.replace("|", "\\|") for t in row)
    return "| " + " | ".join([f"*{c}*" if c == "returns" else f"`{c}`" if c else "" for c in code] + [meaning]) + " |"


@cache
def modules():
    "Modules in the order of their chapters."
    return sorted((Module(p) for p in (ROOT/"ssd_tutorial").glob("*.py") if p.name[0] != "_"), key=lambda m: m.chapter)


@cache
def names(): return {n: f"ssd_tutorial.{m.name}.{n}" for m in modules() for n in m.public()}


def linked(text):
    "Backticked public names become links to the API reference; code and titles stay as they are."
    def link(m): return f"{{py:obj}}`{m[1]}{m[2] or ''} <{names()[m[1]]}>`" if m[1] in names() else m[0]
    return "".join(t if i % 2 else CODE.sub(link, t) for i, t in enumerate(BLOCK.split(text)))


def pages():
    "File name -> text of all pages."
    rows = "\n".join(f"| [{m.name}]({m.name}.md) | {ast.get_docstring(m.tree)} |" for m in modules())
    toctree = "\n".join(m.name for m in modules())
    index = f"# API reference\n\n> Every public name of the package, by module.\n\n| module | what is in it |\n|---|---|\n{rows}\n\n" \
            f"```{{toctree}}\n:hidden:\n{toctree}\n```\n"
    return {"index.md": index} | {f"{m.name}.md": m.page() for m in modules()}
