import functools
import os
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib
import pytest
import torch
from filelock import FileLock
from hypothesis import settings

ROOT = Path(__file__).parents[1]
ALONE = 'a copy of tests/ without the repository'
NEEDED = ('sphinx', 'myst_nb', 'sphinx_book_theme')
EXTRA = 'the tests of the docs site need the development extra'
SPHINX = 'sphinx -q -W --keep-going -c docs -d _proc/doctrees _proc/site _docs'
CHROMIUM = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = ('--no-sandbox --disable-gpu --disable-background-networking --disable-sync '
         '--no-first-run')

matplotlib.use('Agg')
os.environ['MPLBACKEND'] = 'Agg'         # for the processes that the tests start
os.environ['OMP_NUM_THREADS'] = '1'
# results are compared to the last digit, on any machine; test_cuda.py has the tests of a GPU
if 'TEST_CUDA' not in os.environ: os.environ['CUDA_VISIBLE_DEVICES'] = ''
torch.set_num_threads(1)                 # small tensors: more threads only wait for each other
settings.register_profile('small', max_examples=30, deadline=None, database=None)
settings.load_profile('small')


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


@pytest.fixture(scope='session')
def shapes16(tmp_path_factory):
    from ssd_tutorial.shapes import make_shapes
    return make_shapes(tmp_path_factory.mktemp('shapes')/'set', 16)


class Quiet(SimpleHTTPRequestHandler):
    "Serves files and says nothing."
    def log_message(self, *args): pass


@pytest.fixture(scope='session')
def site():
    "Address of the docs site, built when something has changed and served from a thread."
    if not (ROOT/'docs'/'conf.py').is_file(): pytest.skip(ALONE)
    for name in NEEDED: pytest.importorskip(name, reason=EXTRA)
    (ROOT/'_proc'/'site').mkdir(parents=True, exist_ok=True)
    # several processes may test at once, but only the first builds
    run = os.environ.get('PYTEST_XDIST_TESTRUNUID', f'process {os.getpid()}')
    built = ROOT/'_proc'/'site.run'
    with FileLock(ROOT/'_proc'/'site.lock'):
        if not built.is_file() or built.read_text() != run:
            command = [sys.executable, '-m', *SPHINX.split()]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            built.write_text(run)

    handler = functools.partial(Quiet, directory=ROOT/'_docs')
    # port 0: any that is free
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


@pytest.fixture(scope='session')
def browser():
    "A Chromium of the system, without a window."
    api = pytest.importorskip('playwright.sync_api', reason=EXTRA)
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if not path: pytest.skip('no Chromium is installed; on Debian: apt-get install chromium')
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()
