"The docs site as its readers get it: in a browser, and link by link."
import ast
import importlib
import json
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT/'_docs'
CHAPTERS = sorted(p.relative_to(ROOT/'nbs').with_suffix('').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
MODULES = sorted(p.stem for p in (ROOT/'ssd_tutorial').glob('*.py') if p.stem[0] != '_')
PAGES = [f'{n}.html' for n in [*CHAPTERS, *(f'api/{m}' for m in ['index', *MODULES] if CHAPTERS), *(['search', 'genindex'] if CHAPTERS else [])]]
COLAB = 'https://colab.research.google.com/github/ssd-tutorial/ssd_tutorial/blob/main/nbs/'
UNWANTED = ['Traceback (most recent call last)', '/home/', '/tmp/', '/root/', 'site-packages', 'Warning:', '\r', '\x1b', '█', '%|', '#|',
            '%pip', '<IPython.core', 'colab-badge']

# Texts whose contrast with the colour behind them is under 4.5, the least that WCAG (AA) accepts
FAINT = '''() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => rgb(c).slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                           .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { const c = getComputedStyle(e).backgroundColor; return rgb(c)[3] === 0 ? behind(e.parentElement) : c };
  const texts = document.querySelectorAll('.bd-article :is(h1, h2, p, li, td, th, figcaption, pre, dt, a)');
  return [...texts].filter(e => e.innerText.trim()).filter(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return (a + .05) / (b + .05) < 4.5 }).map(e => 'faint: ' + e.innerText.slice(0, 60)) }'''

# Figures: loaded, with a text, with a size that the page can keep free; never wider than the page, never squeezed; on a light card in its own colours
POOR = '''() => [...document.querySelectorAll('.bd-article img')].flatMap(i => {
  const s = getComputedStyle(i), r = i.getBoundingClientRect(), pad = parseFloat(s.paddingTop) * 2;
  const squeezed = Math.abs((r.width - pad) / (r.height - pad) / (i.naturalWidth / i.naturalHeight) - 1) > .03;
  return Object.entries({
    unloaded: !i.naturalWidth, 'without a text': !i.alt.trim() || i.alt.endsWith('.png'),
    'without a size': !i.getAttribute('width') || !i.getAttribute('height'),
    squeezed, 'too wide': r.right > innerWidth,
    'not on white': s.backgroundColor != 'rgb(255, 255, 255)', recoloured: s.filter != 'none'})
    .filter(([, bad]) => bad).map(([what]) => `${what}: ${i.src}`) })'''


@cache
def soup(page):
    from bs4 import BeautifulSoup
    return BeautifulSoup((DOCS/page).read_text(encoding='utf-8'), 'html.parser')


def cells(name): return json.loads((ROOT/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']


@pytest.fixture
def open_page(site, browser):
    "Open a page in a window of its own; gives it and the list of what went wrong."
    windows = []

    def opened(path, width=1280, scheme='light'):
        windows.append(browser.new_context(color_scheme=scheme, viewport=dict(width=width, height=900)))
        page, faults = windows[-1].new_page(), []
        page.on('console', lambda m: faults.append(f'console: {m.text}') if m.type == 'error' else None)
        page.on('pageerror', lambda e: faults.append(f'script: {e}'))
        page.on('requestfailed', lambda r: faults.append(f'failed: {r.url}'))
        page.on('response', lambda r: faults.append(f'{r.status}: {r.url}') if r.status >= 400 else None)
        page.on('request', lambda r: faults.append(f'other host: {r.url}') if not r.url.startswith((site, 'data:', 'blob:')) else None)
        page.goto(site + path, wait_until='networkidle')
        return page, faults
    yield opened
    for w in windows: w.close()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('path', PAGES)
def test_a_page_is_whole_and_legible_on_screen_and_phone(open_page, path, scheme):
    page, faults = open_page(path, scheme=scheme)
    assert page.evaluate('document.documentElement.dataset.theme') == scheme
    for width in (1280, 390):
        page.set_viewport_size(dict(width=width, height=900))
        if page.evaluate('document.documentElement.scrollWidth') > width: faults.append(f'wider than {width} pixels')
        faults += [f'{width} pixels, {f}' for f in page.evaluate(POOR)]
    faults += page.evaluate(FAINT)
    assert faults == []


@pytest.mark.parametrize('words, best', [('box_iou', 'api/boxes.html'), ('focal loss', '07_loss.html'), ('anchor', '06_anchors.html')])
def test_search_finds(open_page, words, best):
    page, faults = open_page('index.html')
    page.keyboard.press('Control+k')
    page.keyboard.type(words)
    page.keyboard.press('Enter')
    page.wait_for_selector('#search-results li a')
    page.wait_for_function("document.querySelector('#search-results p')?.innerText.includes('found')")
    found = page.eval_on_selector_all('#search-results li a', 'all => all.map(a => a.href)')
    assert any(best in f for f in found) and faults == []


def test_formulas_are_drawn(open_page):
    page, _ = open_page('00_boxes.html')
    page.wait_for_selector('mjx-container svg')


@pytest.mark.parametrize('path', PAGES)
def test_no_dead_link_and_nothing_raw(site, path):
    page, faults = soup(path), []
    for a in page.select('a[href]'):
        url = urljoin(site + path, a['href'])
        if not (a.get_text(strip=True) or a.find('img', alt=True) or a.get('aria-label') or a.get('title')): faults.append(f'no text: {url}')
        if not url.startswith(site): continue
        name, _, anchor = unquote(url[len(site):]).partition('#')
        name = name.partition('?')[0] or 'index.html'
        if not (DOCS/name).is_file(): faults.append(f'dead: {url}')
        elif anchor and name.endswith('.html') and not soup(name).find(id=anchor): faults.append(f'no such place: {url}')
    assert faults == []
    article = page.select_one('article') or page
    assert [u for u in UNWANTED if u in str(article)] == []


@pytest.mark.parametrize('name', CHAPTERS)
def test_a_chapter_opens_in_colab_downloads_and_leads_on(site, name):
    page = soup(f'{name}.html')
    assert [a['href'] for a in page.select('a[href*="colab.research"]')] == [f'{COLAB}{name}.ipynb']
    download, = [a['href'] for a in page.select('a[href*="_sources"]')]
    assert (DOCS/f'{name}.html').parent.joinpath(download).read_bytes() == (ROOT/'nbs'/f'{name}.ipynb').read_bytes()
    assert page.select('.bd-links a[href*="api/index.html"], .bd-links a[href="../api/index.html"]') and page.select('.prev-next-area a')


@pytest.mark.parametrize('name', CHAPTERS)
def test_captions_of_a_chapter(site, name):
    wanted = [c for c in cells(name) if '#| fig-cap' in ''.join(c['source']) and 'image/png' in str(c.get('outputs'))]
    assert len(soup(f'{name}.html').select('figcaption')) >= len(wanted)


@pytest.mark.parametrize('name', CHAPTERS)
def test_a_chapter_says_what_it_was_run_on(site, name):
    if not any(c.get('outputs') for c in cells(name)): return
    runs = json.loads((ROOT/'docs'/'runs.json').read_text())
    assert runs[name]['date'] in soup(f'{name}.html').select_one('p.run').text


def test_directives_of_a_cell(site, monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(ROOT/'docs'), *sys.path])
    code_cell = importlib.import_module('notebooks').code_cell
    def changed(source):
        code_cell(cell := dict(source=source, metadata={}, outputs=[]))
        return cell['source'], cell['metadata'].get('tags'), cell['metadata']['mystnb']
    assert changed('#| hide\nx') == ('x', ['remove-cell'], {})
    assert changed('#| default_exp boxes') == ('', ['remove-cell'], {})
    assert changed('#| echo: false\nx') == ('x', ['remove-input'], {})
    assert changed('#| code-fold: true\nx') == ('x', ['hide-input'], {})
    assert changed('#| export\ndef f(): pass  #| not one') == ('def f(): pass  #| not one', None, {})
    cap = '#| fig-cap: "Two boxes: a star, \\"a\\" heart"\n'
    assert changed(cap + 'x')[2]['figure']['caption'] == changed(cap + 'x')[2]['image']['alt'] == 'Two boxes: a star, "a" heart'
    assert changed(cap + '#| fig-alt: "Other"\nx')[2]['image']['alt'] == 'Other'


@pytest.mark.parametrize('name', MODULES)
def test_every_public_name_is_in_the_reference(site, name):
    tree = ast.parse((ROOT/'ssd_tutorial'/f'{name}.py').read_text(encoding='utf-8'))
    public, = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '__all__']
    page = soup(f'api/{name}.html')
    assert [n for n in public if not page.find(id=f'ssd_tutorial.{name}.{n}')] == []
    assert 'Taught in' in page.text


@pytest.mark.parametrize('name', MODULES)
def test_every_parameter_of_a_public_function_is_explained(name):
    "By a comment behind it, by its type where that is a class of ours, or by the function that the docstring says it is the inside of."
    from inspect import isfunction

    from fastcore.docments import docments
    module = importlib.import_module(f'ssd_tutorial.{name}')
    functions = {n: f for n in module.__all__ if isfunction(f := getattr(module, n)) and not f.__doc__.startswith('What `ssd_')}
    def explained(p): return p.docment or getattr(p.anno, 'help', '') or getattr(p.anno, '__module__', '').startswith('ssd_tutorial')
    assert [f'{n}: {p}' for n, f in functions.items() for p, d in docments(f, full=True, returns=False).items()
            if not explained(d) and str(d.kind) != 'VAR_KEYWORD'] == []
