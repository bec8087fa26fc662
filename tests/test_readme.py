"README.md, which GitHub and the package index show: made from the home page, with links and pictures that work there."
import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT/'README.md').is_file(): pytest.skip('a copy of tests/ without the repository', allow_module_level=True)
nbformat = pytest.importorskip('nbformat')
README = (ROOT/'README.md').read_text()
LINKS = re.findall(r'(!?)\[([^\]]*)\]\(([^)\s]*)\)', README)
HERE = re.compile(r'https://(?:raw\.githubusercontent\.com/ssd-tutorial/ssd_tutorial|github\.com/ssd-tutorial/ssd_tutorial/(?:blob|tree))/main/(.+)')


@pytest.fixture
def maker(tmp_path, monkeypatch):
    "tools/make_readme.py, which writes its pictures elsewhere."
    spec = importlib.util.spec_from_file_location('make_readme', ROOT/'tools'/'make_readme.py')
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    monkeypatch.setattr(module, 'PICTURES', tmp_path)
    return module


def test_readme_is_made_from_the_home_page(maker, tmp_path):
    assert README.endswith('\n\n' + maker.readme(nbformat.read(ROOT/'nbs'/'index.ipynb', 4)))
    made, kept = ({p.name: p.read_bytes() for p in folder.glob('readme_*')} for folder in (tmp_path, ROOT/'docs'/'images'))
    assert made == kept and made


def test_links_are_absolute_and_what_is_ours_exists():
    assert len(LINKS) > 15 and [url for *_, url in LINKS if not url.startswith('https://')] == []
    ours = [m[1] for *_, url in LINKS if (m := HERE.fullmatch(url))]
    assert len(ours) > 12 and [p for p in ours if not (ROOT/p).exists()] == []


def test_pictures_say_what_they_show():
    alts = {url: alt for mark, alt, url in LINKS if mark}
    assert sum('/images/' in url for url in alts) == 3
    assert [url for url, alt in alts.items() if len(alt) < 20 and 'colab-badge' not in url] == []


def test_every_chapter_and_tutorial_is_in_the_table_of_the_home_page():
    home = nbformat.read(ROOT/'nbs'/'index.ipynb', 4)
    linked = set(re.findall(r'\]\(([\w/]+\.ipynb)\)', '\n'.join(c.source for c in home.cells)))
    pages = {p.relative_to(ROOT/'nbs').as_posix() for pattern in ('*.ipynb', 'tutorials/*.ipynb') for p in (ROOT/'nbs').glob(pattern)}
    assert linked == pages - {'index.ipynb'}


def test_the_map_names_every_chapter_as_text_on_its_own_card():
    svg = ElementTree.parse(ROOT/'nbs'/'images'/'map.svg').getroot()
    text = ' '.join(''.join(t.itertext()) for t in svg.iter('{http://www.w3.org/2000/svg}text'))
    assert {int(n) for n in re.findall(r'\b\d\d\b', text)} == set(range(len(list((ROOT/'nbs').glob('[01]*.ipynb')))))
    card = svg.find('{http://www.w3.org/2000/svg}rect')
    assert card.get('fill').startswith('#') and float(card.get('width')) > .98 * float(svg.get('width'))
