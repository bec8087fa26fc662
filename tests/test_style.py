"The rules of code in CONTRIBUTING.md, for every module, notebook, test, tool and benchmark."
import ast
import builtins
import json
import re
import symtable

import pytest

NEEDED = 'a copy of tests/ without the repository'
style = pytest.importorskip('measure_style', reason=NEEDED)    # from tools/
FOLDERS = ('ssd_tutorial', 'tests', 'docs', 'tools', 'benchmarks')
FILES = style.find_files('nbs/**/*.ipynb', *(f'{folder}/*.py' for folder in FOLDERS))
PACKAGE = style.find_files('ssd_tutorial/*.py')
SPLIT = 'name a part of it, or break the line'


def private_names(codes):
    "Names with one underscore that some code defines: functions, variables and attributes."
    names = {n.name for c in codes for n in c.nodes(*style.FUNCTIONS, ast.ClassDef)}
    stored = [n for c in codes for n in c.nodes(ast.Name, ast.Attribute)]
    stored = [n for n in stored if isinstance(n.ctx, ast.Store)]
    names |= {n.id if isinstance(n, ast.Name) else n.attr for n in stored}
    return {n for n in names if re.fullmatch(r'_[^_].*[^_]', n)}


PRIVATE = private_names([c for path in PACKAGE for c in style.read_code(path)])


def long_lines(code, private):
    for line, text in enumerate(code.lines, 1):
        if len(text) > 96: yield line, f'{len(text)} columns, at most 96: {SPLIT}'


def long_outputs(code, private):
    for output in code.outputs:
        shown = output.get('text') or output.get('data', {}).get('text/plain', '')
        longest = max(map(len, ''.join(shown).split('\n')))
        if longest > 96: yield 1, f'prints {longest} columns, at most 96: show less'


def dense_lines(code, private):
    for line, n in code.density.items():
        if code.exported and n > 40: yield line, f'{n} tokens, at most 40: {SPLIT}'


def long_cells(code, private):
    n = code.cell_length()
    if code.exported and code.is_cell and n > 30: yield 1, f'{n} lines, at most 30: split it'


def semicolons(code, private):
    # the last one of a notebook's cell silences its value
    tokens = code.tokens[:-1] if code.is_cell and not code.exported else code.tokens
    for t in tokens:
        if t.string == ';': yield t.start[0], 'a semicolon: give each idea a line'


def nested_comprehensions(code, private):
    for outer in code.nodes(*style.COMPREHENSIONS):
        inner = [n for n in ast.walk(outer) if isinstance(n, style.COMPREHENSIONS)]
        if len(inner) > 1: yield outer.lineno, 'nested comprehensions: name the inner one'


def parallel_assignments(code, private):
    for n in filter(style.is_parallel, code.nodes(ast.Assign)):
        # the same things on both sides: they change places
        sides = [sorted(map(ast.unparse, side.elts)) for side in (n.targets[0], n.value)]
        if sides[0] != sides[1]: yield n.lineno, 'a parallel assignment: give each name a line'


def asserts(code, private):
    for n in code.nodes(ast.Assert):
        if code.exported: yield n.lineno, 'an assert in the package: raise an error'


def private_imports(code, private):
    used = [(n.lineno, a.name) for n in code.nodes(ast.ImportFrom) for a in n.names]
    used += [(n.lineno, n.attr) for n in code.nodes(ast.Attribute)]
    for line, name in used:
        if name in private: yield line, f'{name} is private to another module: make it public'


RULES = (long_lines, long_outputs, dense_lines, long_cells, semicolons, nested_comprehensions,
         parallel_assignments, asserts, private_imports)


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.relative_to(style.ROOT).as_posix())
def test_a_file_keeps_the_rules(path):
    codes = style.read_code(path)
    own = PRIVATE if path.parent.name == 'tests' else private_names(codes)
    faults = [f'{code.place}, line {line}: {fault}'
              for code in codes for rule in RULES for line, fault in rule(code, PRIVATE - own)]
    if faults: pytest.fail(f'{len(faults)} faults\n' + '\n'.join(faults), pytrace=False)


def test_the_package_says_why_and_is_not_dense():
    codes = [c for path in PACKAGE for c in style.read_code(path)]
    dense = style.measure_lines(codes)['tokens>=30 %']
    assert dense <= 3, f'{dense} % of the lines have 30 tokens or more, at most 3 %: {SPLIT}'
    comments = style.measure_functions(codes)['comments %']
    assert comments >= 5, f'{comments} comments of why in 100 lines of code, at least 5'


def names_of(table):
    "Names that code at the top of a cell gives a value, and those that the cell asks for."
    given = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    asked = set()
    tables = [table]
    while tables:
        inner = tables.pop()
        tables += inner.get_children()
        asked |= {s.get_name() for s in inner.get_symbols() if s.is_referenced()
                  and (inner is table or s.is_global())}
    return given, asked


@pytest.mark.parametrize('path', style.find_files('nbs/**/*.ipynb'), ids=lambda p: p.stem)
def test_a_reader_can_run_what_is_seen(path):
    "No visible cell needs a name from one that the page does not show."
    seen = set(dir(builtins))
    unseen = {}
    for cell in json.loads(path.read_text('utf-8'))['cells']:
        source = ''.join(cell['source'])
        # a command to install something is hidden and gives no names
        if cell['cell_type'] != 'code' or re.search(r'^ *%', source, re.MULTILINE): continue
        given, asked = names_of(symtable.symtable(source, path.name, 'exec'))
        if re.search(r'^#\| *hide *$', source, re.MULTILINE):
            unseen |= dict.fromkeys(given, cell['id'])
            continue
        assert {n: unseen[n] for n in asked - given - seen if n in unseen} == {}, cell['id']
        seen |= given
