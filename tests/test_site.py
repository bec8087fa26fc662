"The docs site as its readers get it: in a browser, and link by link."
import ast
import importlib
import json
import sys
from functools import cache
from html.parser import HTMLParser
from inspect import isfunction
from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT/'_docs'
NBS = ROOT/'nbs'
NOTEBOOKS = [p.relative_to(NBS) for p in NBS.rglob('*.ipynb') if p.parent.name[0] != '.']
CHAPTERS = sorted(p.with_suffix('').as_posix() for p in NOTEBOOKS)
MODULES = sorted(p.stem for p in (ROOT/'ssd_tutorial').glob('*.py') if p.stem[0] != '_')
REFERENCE = ['api/index', *(f'api/{m}' for m in MODULES), 'search', 'genindex']
PAGES = [f'{name}.html' for name in CHAPTERS + REFERENCE if CHAPTERS]
WIDE = 1300
PHONE = 390
COLAB = 'https://colab.research.google.com/github/ssd-tutorial/ssd_tutorial/blob/main/nbs/'
UNWANTED = ['Traceback (most recent call last)', '/home/', '/tmp/', '/root/', 'site-packages',
            'Warning:', '\r', '\x1b', '█', '%|', '#|', '%pip', '<IPython.core', 'colab-badge']

# Contrast of a text with what is behind it, as WCAG defines it; some backgrounds shine through
LIGHT = '''
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const weights = [.2126, .7152, .0722];
  const light = c => weights.reduce((sum, w, i) => sum + w * linear(c[i] / 255), 0);
  const color = e => rgb(getComputedStyle(e).color);
  const mix = e => {
    const [r, g, b, alpha = 1] = rgb(getComputedStyle(e).backgroundColor);
    if (alpha === 1 || !e.parentElement) return [r, g, b];
    const under = behind(e.parentElement);
    return [r, g, b].map((v, i) => alpha * v + (1 - alpha) * under[i]) };
  const mixed = new Map();
  const behind = e => {
    if (!mixed.has(e)) mixed.set(e, mix(e));
    return mixed.get(e) };
  const contrast = e => {
    const [a, b] = [light(color(e)), light(behind(e))].sort((x, y) => y - x);
    return (a + .05) / (b + .05) };
'''

# Texts whose contrast with what is behind them is under 4.5, the least that WCAG (AA) accepts
FAINT = f'''() => {{ {LIGHT}
  const kinds = ':is(h1, h2, p, li, td, th, figcaption, pre, pre .c1, dt, a)';
  const texts = [...document.querySelectorAll('.bd-article ' + kinds)];
  return texts.filter(e => contrast(e) < 4.5 && e.innerText.trim())
              .map(e => 'faint: ' + e.innerText.slice(0, 60)) }}'''

# Comments louder than the code around them: in a bright colour, or with more contrast
LOUD = f'''() => {{ {LIGHT}
  const bright = e => Math.max(...color(e)) - Math.min(...color(e));
  const comments = [...document.querySelectorAll('.bd-article pre .c1')];
  return comments.filter(e => bright(e) > 30 || contrast(e) > contrast(e.closest('pre')))
                 .map(e => 'loud: ' + e.innerText.slice(0, 60)) }}'''

# Figures: loaded, with a text, with a size that the page can keep free; never wider than what
# holds it, or than the page; never squeezed; on a light card in its own colours. On a phone
# wide ones scroll inside themselves
POOR = '''() => { const scrolls = i => {
  const figure = i.closest('figure'), right = figure?.getBoundingClientRect().right;
  const inside = right <= innerWidth && getComputedStyle(figure).overflowX == 'auto';
  return innerWidth < 600 && inside;
}
  return [...document.querySelectorAll('.bd-article img')].flatMap(i => {
  const s = getComputedStyle(i), r = i.getBoundingClientRect();
  const pad = parseFloat(s.paddingTop) * 2;
  const shown = (r.width - pad) / (r.height - pad), natural = i.naturalWidth / i.naturalHeight;
  return Object.entries({
    unloaded: !i.naturalWidth, 'without a text': !i.alt.trim() || i.alt.endsWith('.png'),
    'without a size': !i.getAttribute('width') || !i.getAttribute('height'),
    squeezed: Math.abs(shown / natural - 1) > .03,
    'too wide': r.right > innerWidth && !scrolls(i),
    'not on white': s.backgroundColor != 'rgb(255, 255, 255)', recoloured: s.filter != 'none'})
    .filter(([, bad]) => bad).map(([what]) => `${what}: ${i.src}`) }) }'''

# Code and outputs that are wider than their box, with the longest line. On a phone they may be,
# but then the box must scroll inside itself, and be no wider than the page.
CUT = '''() => {
  const tables = '.cell_output .text_html, .pst-scrollable-table-container';
  const boxes = document.querySelectorAll(`.bd-article :is(pre, ${tables})`);
  const longest = e => e.innerText.split('\\n').reduce((a, b) => b.length > a.length ? b : a);
  const phone = innerWidth < 600;
  const bad = e => {
    const wider = e.scrollWidth > e.clientWidth;
    const scrolls = getComputedStyle(e).overflowX == 'auto';
    return e.getBoundingClientRect().right > innerWidth || wider && !(phone && scrolls) };
  return [...boxes].filter(bad).map(e => {
    const cut = e.scrollWidth - e.clientWidth;
    return `${cut} pixels cut: ${longest(e).trim().slice(0, 100)}` }) }'''


class Ids(HTMLParser):
    "All ids of a page: what its links and those of other pages lead to."
    def __init__(self, text):
        super().__init__()
        self.found = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs): self.found.add(dict(attrs).get('id'))


@cache
def ids(page): return Ids(html(page)).found


def html(page): return (DOCS/page).read_text(encoding='utf-8')


@cache
def soup(page):
    from bs4 import BeautifulSoup
    return BeautifulSoup(html(page), 'html.parser')


def cells(name):
    return json.loads((NBS/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']


def page_of(module):
    "The chapter that a module comes from, whatever its number."
    return next(f'{c}.html' for c in CHAPTERS if c[2:] == f'_{module}')


def watch(page, site):
    "The list of what goes wrong on a page from now on."
    faults = []

    def note(bad, text):
        if bad: faults.append(text)
    page.on('console', lambda m: note(m.type == 'error', f'console: {m.text}'))
    page.on('pageerror', lambda e: note(True, f'script: {e}'))
    page.on('requestfailed', lambda r: note(True, f'failed: {r.url}'))
    page.on('response', lambda r: note(r.status >= 400, f'{r.status}: {r.url}'))
    ours = (site, 'data:', 'blob:')
    page.on('request', lambda r: note(not r.url.startswith(ours), f'other host: {r.url}'))
    return faults


@pytest.fixture(scope='module')
def window(site, browser):
    """One window for all pages, and the list of what goes wrong in it.

    Its process keeps the scripts, so that each page costs half of what a new window does.
    """
    context = browser.new_context(color_scheme='light')
    page = context.new_page()
    yield page, watch(page, site)
    context.close()


@pytest.fixture
def open_page(site, window):
    "Open a page as at a first visit; gives it and the list of what went wrong."
    page, faults = window

    def opened(path):
        # what the page before still does is no fault of this one
        page.goto('about:blank')
        faults.clear()
        page.emulate_media(color_scheme='light')
        page.set_viewport_size({'width': WIDE, 'height': 900})
        page.goto(site + path, wait_until='networkidle')
        return page, faults
    yield opened
    page.evaluate('localStorage.clear(), sessionStorage.clear()')


@pytest.mark.parametrize('path', PAGES)
def test_a_page_is_whole_legible_and_fits_on_screen_and_phone(open_page, path):
    page, faults = open_page(path)
    # folded code is code, too
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    # in an order with few changes, as each one lays out the page again
    for scheme, widths in [('light', (WIDE, PHONE)), ('dark', (PHONE, WIDE))]:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")
        for width in widths:
            page.set_viewport_size({'width': width, 'height': 900})
            there = page.evaluate('document.documentElement.scrollWidth')
            found = [f'the page is {there} wide'] if there > width else []
            for faulty in (POOR, CUT, FAINT): found += page.evaluate(faulty)
            if scheme == 'dark': found += page.evaluate(LOUD)
            faults += [f'{scheme}, {width} pixels: {f}' for f in found]
    assert not faults, f'{path}\n' + '\n'.join(faults)


@pytest.mark.parametrize('words, module', [('focal loss', 'loss'), ('anchor', 'anchors')])
def test_search_finds_the_chapter(open_page, words, module):
    found, faults = search(open_page, words)
    assert any(page_of(module) in f for f in found) and faults == []


def test_search_finds_a_function(open_page):
    found, faults = search(open_page, 'box_iou')
    assert any('api/boxes.html' in f for f in found) and faults == []


def search(open_page, words):
    "Addresses of what the search dialog finds, and what went wrong."
    page, faults = open_page('index.html')
    page.keyboard.press('Control+k')
    page.keyboard.type(words)
    page.keyboard.press('Enter')
    page.wait_for_selector('#search-results li a')
    done = "document.querySelector('#search-results p')?.innerText.includes('found')"
    page.wait_for_function(done)
    found = page.eval_on_selector_all('#search-results li a', 'all => all.map(a => a.href)')
    return found, faults


def test_formulas_are_drawn(open_page):
    page, _ = open_page(page_of('boxes'))
    page.wait_for_selector('mjx-container svg')


def has_text(link):
    "Whether a link can be read, or heard."
    return (link.get_text(strip=True) or link.find('img', alt=True)
            or link.get('aria-label') or link.get('title'))


def is_dead(address):
    "Whether an address below the site leads nowhere."
    name, _, anchor = unquote(address).partition('#')
    name = name.partition('?')[0] or 'index.html'
    if not (DOCS/name).is_file(): return True
    return bool(anchor) and name.endswith('.html') and anchor not in ids(name)


@pytest.mark.parametrize('path', PAGES)
def test_no_dead_link_and_nothing_raw(site, path):
    page = soup(path)
    links = page.find_all('a', href=True)
    assert [a['href'] for a in links if not has_text(a)] == []
    urls = [urljoin(site + path, a['href']) for a in links]
    assert [u for u in urls if u.startswith(site) and is_dead(u[len(site):])] == []
    article = str(page.select_one('article') or page)
    assert [u for u in UNWANTED if u in article] == []


@pytest.mark.parametrize('name', CHAPTERS)
def test_a_chapter_opens_in_colab_downloads_and_leads_on(site, name):
    page = soup(f'{name}.html')
    colab = page.select('a[href*="colab.research"]')
    assert [a['href'] for a in colab] == [f'{COLAB}{name}.ipynb']
    download, = [a['href'] for a in page.select('a[href*="_sources"]')]
    got = (DOCS/f'{name}.html').parent.joinpath(download).read_bytes()
    assert got == (NBS/f'{name}.ipynb').read_bytes()
    assert page.select('.bd-links a[href$="api/index.html"]')
    assert page.select('.prev-next-area a')


@pytest.mark.parametrize('name', CHAPTERS)
def test_captions_of_a_chapter(site, name):
    captioned = [c for c in cells(name) if '#| fig-cap' in ''.join(c['source'])]
    wanted = [c for c in captioned if 'image/png' in str(c.get('outputs'))]
    assert len(soup(f'{name}.html').select('figcaption')) >= len(wanted)


@pytest.mark.parametrize('name', CHAPTERS)
def test_a_chapter_says_what_it_was_run_on(site, name):
    if not any(c.get('outputs') for c in cells(name)): return
    runs = json.loads((ROOT/'docs'/'runs.json').read_text())
    assert runs[name]['date'] in soup(f'{name}.html').select_one('p.run').text


@pytest.fixture
def changed(site, monkeypatch):
    "What docs/notebooks.py makes of the source of a cell: source, tags, figure."
    monkeypatch.setattr(sys, 'path', [str(ROOT/'docs'), *sys.path])
    notebooks = importlib.import_module('notebooks')

    def change(source):
        cell = {'source': source, 'metadata': {}, 'outputs': []}
        notebooks.code_cell(cell)
        return cell['source'], cell['metadata'].get('tags'), cell['metadata']['mystnb']
    return change


def test_directives_of_a_cell(changed):
    assert changed('#| hide\nx') == ('x', ['remove-cell'], {})
    assert changed('#| default_exp boxes') == ('', ['remove-cell'], {})
    assert changed('#| echo: false\nx') == ('x', ['remove-input'], {})
    assert changed('#| code-fold: true\nx') == ('x', ['hide-input'], {})
    code = 'def f(): pass  #| not one'
    assert changed(f'#| export\n{code}') == (code, None, {})


def test_caption_and_text_of_a_figure(changed):
    caption = '#| fig-cap: "Two boxes: a star, \\"a\\" heart"\n'
    figure = changed(caption + 'x')[2]
    assert figure['figure']['caption'] == 'Two boxes: a star, "a" heart'
    assert figure['image']['alt'] == figure['figure']['caption']
    assert changed(caption + '#| fig-alt: "Other"\nx')[2]['image']['alt'] == 'Other'


@pytest.mark.parametrize('name', MODULES)
def test_every_public_name_is_in_the_reference(site, name):
    tree = ast.parse((ROOT/'ssd_tutorial'/f'{name}.py').read_text(encoding='utf-8'))
    assigns = [n for n in tree.body if isinstance(n, ast.Assign)]
    listed, = [n.value for n in assigns if ast.unparse(n.targets[0]) == '__all__']
    page = soup(f'api/{name}.html')
    public = ast.literal_eval(listed)
    assert [n for n in public if not page.find(id=f'ssd_tutorial.{name}.{n}')] == []
    assert 'Taught in' in page.text


def unexplained(function):
    """Parameters that nothing tells about.

    That is a comment behind it, its type where that is a class of ours, or, for the inside of a
    command, the help of the command.
    """
    from fastcore.docments import docments
    if function.__doc__.startswith('What `ssd_'): return []
    missing = []
    for name, p in docments(function, full=True, returns=False).items():
        ours = getattr(p.anno, '__module__', '').startswith('ssd_tutorial')
        told = p.docment or getattr(p.anno, 'help', '') or ours
        if not told and str(p.kind) != 'VAR_KEYWORD': missing.append(name)
    return missing


@pytest.mark.parametrize('name', MODULES)
def test_every_parameter_of_a_public_function_is_explained(name):
    module = importlib.import_module(f'ssd_tutorial.{name}')
    functions = {n: f for n in module.__all__ if isfunction(f := getattr(module, n))}
    missing = {n: unexplained(f) for n, f in functions.items()}
    assert {n: names for n, names in missing.items() if names} == {}
