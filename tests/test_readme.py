"README.md, for GitHub and the package index: made from the home page, its links work there."
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
ALONE = 'a copy of tests/ without the repository'
if not (ROOT/'README.md').is_file(): pytest.skip(ALONE, allow_module_level=True)
nbformat = pytest.importorskip('nbformat')

HOME = ROOT/'nbs'/'index.ipynb'
README = (ROOT/'README.md').read_text()
LINKS = re.findall(r'(!?)\[([^\]]*)\]\(([^)\s]*)\)', README)
RAW = r'raw\.githubusercontent\.com/ssd-tutorial/ssd_tutorial'
PAGES = r'github\.com/ssd-tutorial/ssd_tutorial/(?:blob|tree)'
HERE = re.compile(rf'https://(?:{RAW}|{PAGES})/main/(.+)')
SVG = '{http://www.w3.org/2000/svg}'


@pytest.fixture
def maker(tmp_path, monkeypatch):
    "tools/make_readme.py, which writes its pictures elsewhere."
    import make_readme
    monkeypatch.setattr(make_readme, 'PICTURES', tmp_path)
    return make_readme


def pictures(folder): return {p.name: p.read_bytes() for p in folder.glob('readme_*')}


def test_readme_is_made_from_the_home_page(maker, tmp_path):
    assert README == maker.NOTE + maker.readme(nbformat.read(HOME, 4))
    made = pictures(tmp_path)
    assert made == pictures(ROOT/'docs'/'images') and made


def test_links_are_absolute_and_what_is_ours_exists():
    urls = [url for *_, url in LINKS]
    assert len(urls) > 15 and [u for u in urls if not u.startswith('https://')] == []
    ours = [m[1] for u in urls if (m := HERE.fullmatch(u))]
    assert len(ours) > 12 and [p for p in ours if not (ROOT/p).exists()] == []


def test_pictures_say_what_they_show():
    alts = {url: alt for mark, alt, url in LINKS if mark}
    assert sum('/images/' in url for url in alts) == 5
    silent = [url for url, alt in alts.items() if len(alt) < 20]
    assert [url for url in silent if 'colab-badge' not in url] == []


def test_every_page_is_in_the_table_of_the_home_page():
    text = '\n'.join(c.source for c in nbformat.read(HOME, 4).cells)
    linked = set(re.findall(r'\]\(([\w/]+\.ipynb)\)', text))
    pages = [*(ROOT/'nbs').glob('*.ipynb'), *(ROOT/'nbs').glob('tutorials/*.ipynb')]
    names = {p.relative_to(ROOT/'nbs').as_posix() for p in pages}
    assert linked == names - {'index.ipynb'}


def test_the_map_names_every_chapter_as_text_on_its_own_card():
    svg = ElementTree.parse(ROOT/'nbs'/'images'/'map.svg').getroot()
    text = ' '.join(''.join(t.itertext()) for t in svg.iter(f'{SVG}text'))
    chapters = list((ROOT/'nbs').glob('[0-9]*.ipynb'))
    assert {int(n) for n in re.findall(r'\b\d\d\b', text)} == set(range(len(chapters)))
    card = svg.find(f'{SVG}rect')
    assert card.get('fill').startswith('#')
    assert float(card.get('width')) > .98 * float(svg.get('width'))
