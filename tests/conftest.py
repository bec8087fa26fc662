import os
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use('Agg')
os.environ['MPLBACKEND'] = 'Agg'         # for the processes that the tests start
os.environ['OMP_NUM_THREADS'] = '1'
torch.set_num_threads(1)                 # small tensors: more threads only wait for each other
settings.register_profile('small', max_examples=30, deadline=None, database=None)
settings.load_profile('small')


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


@pytest.fixture(scope='session')
def shapes16(tmp_path_factory):
    from ssd_tutorial.shapes import make_shapes
    return make_shapes(tmp_path_factory.mktemp('shapes')/'set', 16)


@pytest.fixture(scope='session')
def site():
    "Address of the docs site, built when something has changed and served from a thread."
    import functools, subprocess, sys, threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    root = Path(__file__).parents[1]
    if not (root/'docs'/'conf.py').is_file(): pytest.skip('the docs site is built from the sources, which are not here')
    for name in ('sphinx', 'myst_nb', 'sphinx_book_theme'): pytest.importorskip(name, reason='the docs site needs the development extra: make docs')
    (root/'_proc'/'site').mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, '-m', 'sphinx', *'-q -W --keep-going -c docs -d _proc/doctrees _proc/site _docs'.split()],
                          cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=root/'_docs')) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


@pytest.fixture(scope='session')
def browser():
    "A Chromium of the system, without a window."
    import shutil
    api = pytest.importorskip('playwright.sync_api', reason='the tests of the docs site need playwright, which is in the development extra')
    path = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not path: pytest.skip('no Chromium is installed; on Debian: apt-get install chromium')
    flags = '--no-sandbox --disable-gpu --disable-background-networking --disable-sync --no-first-run'.split()
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()
