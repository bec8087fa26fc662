"""Measure how the code reads: lines, tokens, functions, comments; beside four other projects.

    python tools/measure_style.py

The rules that these figures watch over are in CONTRIBUTING.md, and tests/test_style.py
enforces them.
"""
import ast
import io
import json
import re
import tokenize
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (*FUNCTIONS, ast.ClassDef, ast.Module)

EXPORT = re.compile(r"^#\|\s*export", re.MULTILINE)
CELL_MAGIC = re.compile(r"\A(?:#\|.*\n|\s)*%%")
LINE_MAGIC = re.compile(r"^(\s*)[%!]\w.*$", re.MULTILINE)
LISTED = re.compile(r"^__all__ = \[.*?\]$", re.MULTILINE | re.DOTALL)

# Figures of other projects, measured once from their own files; empty: not measured
OTHERS = {
    "miniai": {
        "length": (35, 74, 118, 181), ">100 %": 2.3, ">120 %": .6, "tokens>=30 %": 4.2,
        "lines": (3, 10, 26), "lines of body": (2, 8, 24), "tokens of body": (32, 105, 289),
        "comments %": .7, "parallel %": 3.7,
    },
    "fastcore": {
        "length": (38, 85, 127, 1121), ">100 %": 5.8, ">120 %": 1.6, "tokens>=30 %": 3.1,
        "lines": (4, 12, 53), "lines of body": (2, 9, 45), "tokens of body": (28, 102, 783),
        "comments %": 1.3, "parallel %": 5.2,
    },
    "minbpe": {
        "length": (39, 68, 112, 137), ">100 %": 1.3, ">120 %": .7, "tokens>=30 %": .3,
        "lines": (11, 30, 42), "lines of body": (6, 19, 23), "tokens of body": (45, 159, 173),
        "comments %": 39.5,
    },
    "torchvision": {
        "length": (40, 85, 115, 198), ">100 %": 4.7, ">120 %": .1, "tokens>=30 %": 1.2,
        "lines": (20, 59, 105), "lines of body": (10, 30, 67),
        "tokens of body": (102, 263, 532),
    },
}
CELLS_OF_OTHERS = {
    "miniai, exported": {"length": (6, 18, 46)},
    "fastcore, exported": {"length": (6, 18, 51)},
}
NOTES = """\
Three figures: median, 90th percentile, largest; of line lengths the third of four is the 99th
percentile. The figures of miniai, fastcore, minbpe and torchvision (detection) were measured
once from their own files; empty ones were not.

lines: all; those of code, so no blanks, comments and docstrings; of these the length, the share
  over 96, 100 and 120 columns, the share of lines with 30 tokens and more (names, operators,
  numbers, strings), and how many have 40 and more
functions: lines with signature, docments and docstring, and of the body without them;
  comments inside functions that have a line of their own, for each 100 lines of code
habits: semicolons, and comprehensions within one another or with two loops, for each 100 lines
  of code; parallel assignments (`a, b = 1, 2`), a share of all assignments. In the other
  projects semicolons are 0 to 0.1, nested comprehensions 0 to 0.3.
cells: lines that are neither blank nor directives"""


class Code:
    "A file, or one code cell of a notebook."
    def __init__(self, place, text, exported=False, is_cell=False, outputs=()):
        self.place = place          # name of the file, and of a cell which one it is
        self.exported = exported    # into the package; modules are, too
        self.is_cell = is_cell
        self.outputs = outputs
        self.lines = text.split("\n")
        # what belongs to IPython is no Python: such lines are put aside, but counted
        self.text = "" if CELL_MAGIC.match(text) else LINE_MAGIC.sub(r"\1pass", text)
        self.tree = ast.parse(self.text)

    @cached_property
    def tokens(self):
        "Names, operators, numbers and strings; an f-string is one of them."
        inside = 0
        tokens = []
        for t in tokenize.generate_tokens(io.StringIO(self.text).readline):
            kind = tokenize.tok_name[t.type]
            if inside == 0 and (t.type in KINDS or kind == "FSTRING_START"): tokens.append(t)
            # from Python 3.12 on the parts of an f-string are tokens, too
            inside += (kind == "FSTRING_START") - (kind == "FSTRING_END")
        return tokens

    @cached_property
    def docstrings(self):
        "Numbers of the lines that docstrings take."
        nodes = [n for n in ast.walk(self.tree) if isinstance(n, DOCUMENTED)]
        texts = [n.body[0] for n in nodes if ast.get_docstring(n) is not None]
        return {line for t in texts for line in range(t.lineno, t.end_lineno + 1)}

    @cached_property
    def density(self):
        "Line -> number of tokens, for the lines of code: no blanks, comments or docstrings."
        density = {}
        for t in self.tokens:
            line = t.start[0]
            if line not in self.docstrings: density[line] = density.get(line, 0) + 1
        return density

    @cached_property
    def functions(self):
        "Functions and methods, also those inside others."
        return [n for n in ast.walk(self.tree) if isinstance(n, FUNCTIONS)]

    def tokens_of_body(self, function):
        "Number of tokens on each line of a function, without signature and docstring."
        statements = [s for s in function.body if s.lineno not in self.docstrings]
        if not statements: return []
        span = range(statements[0].lineno, function.end_lineno + 1)
        return [self.density[line] for line in span if line in self.density]

    def count_comments(self):
        "Number of comments inside functions that have a line of their own."
        inside = set()
        for f in self.functions: inside.update(range(f.lineno, f.end_lineno + 1))
        # a `#` that begins a line of a string is no comment, hence the tokens
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        comments = [t for t in tokens if t.type == tokenize.COMMENT]
        own = [t.start[0] for t in comments if not t.line[:t.start[1]].strip()]
        return sum(line in inside for line in own)

    def nodes(self, *kinds):
        "All nodes of these kinds in the syntax tree."
        return [n for n in ast.walk(self.tree) if isinstance(n, kinds)]

    def cell_length(self):
        "Lines of a cell that a reader sees: neither blank nor directives."
        return sum(bool(s.strip()) and not s.startswith("#|") for s in self.lines)


def read_code(path):
    "A list of `Code`: the file, or the code cells of a notebook."
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        package = path.parent.name == "ssd_tutorial"
        # nbdev writes the list of public names, 120 columns wide, and nobody reads it
        if package: text = LISTED.sub(lambda m: "\n" * m[0].count("\n"), text)
        return [Code(name, text, exported=package)]
    cells = []
    for i, cell in enumerate(json.loads(text)["cells"]):
        if cell["cell_type"] != "code": continue
        source = "".join(cell["source"])
        place = f"{name} cell {i} ({cell['id']})"
        exported = bool(EXPORT.search(source))
        cells.append(Code(place, source, exported, is_cell=True, outputs=cell["outputs"]))
    return cells


def find_files(*patterns):
    "Paths of our sources; checkpoints of notebooks and what nbdev generates are not."
    found = [p for pattern in patterns for p in sorted(ROOT.glob(pattern))]
    return [p for p in found if p.name != "_modidx.py" and ".ipynb_checkpoints" not in p.parts]


def summary(values, shares=(.5, .9, 1)):
    "Percentiles of some numbers: the median, the 90th, and the largest."
    values = sorted(values)
    last = len(values) - 1
    return tuple(values[min(last, int(share * len(values)))] for share in shares if values)


def percent(n, of): return round(100 * n / max(1, of), 1)


def measure_lines(codes):
    "How long and how dense the lines of code are."
    lengths = [len(c.lines[line - 1]) for c in codes for line in c.density]
    tokens = [n for c in codes for n in c.density.values()]
    def share(flags): return percent(sum(flags), len(lengths))
    return {
        "all": sum(len(c.lines) for c in codes),
        "of code": len(lengths),
        "length": summary(lengths, (.5, .9, .99, 1)),
        ">96 %": share(n > 96 for n in lengths),
        ">100 %": share(n > 100 for n in lengths),
        ">120 %": share(n > 120 for n in lengths),
        "tokens>=30 %": share(n >= 30 for n in tokens),
        ">=40": sum(n >= 40 for n in tokens),
    }


def measure_functions(codes):
    "How long functions are, and how much of the why stands in them."
    functions = [(c, f) for c in codes for f in c.functions]
    bodies = [c.tokens_of_body(f) for c, f in functions]
    comments = sum(c.count_comments() for c in codes)
    return {
        "count": len(functions),
        "lines": summary(f.end_lineno - f.lineno + 1 for _, f in functions),
        "lines of body": summary(len(b) for b in bodies),
        "tokens of body": summary(sum(b) for b in bodies),
        "comments %": percent(comments, sum(len(c.density) for c in codes)),
    }


def measure_habits(codes):
    "What packs several ideas into one line."
    n_lines = sum(len(c.density) for c in codes)
    semicolons = sum(t.string == ";" for c in codes for t in c.tokens)
    nested = sum(is_nested(n) for c in codes for n in c.nodes(*COMPREHENSIONS))
    assigns = [n for c in codes for n in c.nodes(ast.Assign)]
    return {
        "semicolons %": percent(semicolons, n_lines),
        "nested %": percent(nested, n_lines),
        "parallel %": percent(sum(map(is_parallel, assigns)), len(assigns)),
    }


def measure_cells(codes):
    "How much of a notebook comes at a time."
    lengths = [c.cell_length() for c in codes]
    return {
        "count": len(codes),
        "length": summary(lengths),
        ">30": sum(n > 30 for n in lengths),
    }


def is_nested(node):
    "Whether a comprehension holds another, or has two loops."
    inner = [n for n in ast.walk(node) if isinstance(n, COMPREHENSIONS)]
    return len(inner) > 1 or len(node.generators) > 1


def is_parallel(assign):
    "Whether several values are written to several names."
    return isinstance(assign.targets[0], ast.Tuple) and isinstance(assign.value, ast.Tuple)


def table(title, figures):
    "Text of a table: `figures` is row -> column -> number, or several numbers."
    def shown(value):
        return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
    heads = list(next(iter(figures.values())))
    rows = [[title, *heads]]
    for name, row in figures.items():
        rows.append([name, *(shown(row.get(h, "")) for h in heads)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        cells = map(str.rjust, others, widths[1:])
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def sources():
    "Name -> list of `Code` of everything that is measured."
    patterns = {
        "package": ["ssd_tutorial/*.py"],
        "cells, exported": ["nbs/**/*.ipynb"],
        "cells, all": ["nbs/**/*.ipynb"],
        "tests": ["tests/*.py"],
        "docs, tools, bench": ["docs/*.py", "tools/*.py", "benchmarks/*.py"],
    }
    found = {}
    for name, globs in patterns.items():
        found[name] = [c for p in find_files(*globs) for c in read_code(p)]
    found["cells, exported"] = [c for c in found["cells, exported"] if c.exported]
    return found


def main():
    ours = sources()
    cells = {name: codes for name, codes in ours.items() if "cells" in name}
    for title, measure, groups, others in [
        ("lines", measure_lines, ours, OTHERS),
        ("functions", measure_functions, ours, OTHERS),
        ("habits", measure_habits, ours, OTHERS),
        ("cells", measure_cells, cells, CELLS_OF_OTHERS),
    ]:
        figures = {name: measure(codes) for name, codes in groups.items()}
        print(table(title, figures | others) + "\n")
    print(NOTES)


if __name__ == "__main__": main()
