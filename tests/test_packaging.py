import subprocess
import sys
from pathlib import Path

import ssd_tutorial

FOLDER = Path(ssd_tutorial.__file__).parent
MODULES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem[0] != '_')
HEAVY = ['fastai', 'torchvision', 'imgaug', 'matplotlib', 'PIL', 'pandas', 'fastcore']
METRICS = ['torchmetrics', 'pycocotools', 'onnx', 'onnxscript', 'onnxruntime']
TRAINING = ['fastai', 'pandas', 'sklearn', 'scipy']

PUBLIC = '''
import sys

def no_network(event, args):
    asks = ('socket.connect', 'socket.getaddrinfo', 'socket.bind', 'urllib.Request')
    if event in asks: raise RuntimeError(f'{event} {args}')

sys.addaudithook(no_network)
import importlib, inspect

for name in MODULES:
    module = importlib.import_module(f'ssd_tutorial.{name}')
    assert module.__doc__, name
    assert module.__all__, name
    for n in module.__all__:
        o = getattr(module, n)
        if not (inspect.isclass(o) or inspect.isfunction(o)): continue
        # without a docstring, a dataclass has its signature for one
        told = o.__doc__ and not o.__doc__.startswith(n + '(')
        print('ok' if told else 'bare', name, n)
print([m for m in METRICS if m in sys.modules])
'''

TIMES = '''
import time
start = time.process_time()
import torch
torch_there = time.process_time()
import ssd_tutorial.boxes, ssd_tutorial.anchors, ssd_tutorial.loss
print((time.process_time() - start) / (torch_there - start))
'''


def python(code, cwd=None):
    command = [sys.executable, '-W', 'ignore', '-c', code]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(modules, of):
    "Which of some modules are there once others are imported."
    code = f'import sys, {modules}; print(*[m for m in {of} if m in sys.modules])'
    return python(code).split()


def test_boxes_anchors_and_loss_need_torch_only():
    modules = 'ssd_tutorial.boxes, ssd_tutorial.anchors, ssd_tutorial.loss'
    assert loaded(modules, HEAVY + METRICS) == []


def test_predicting_needs_nothing_that_training_needs():
    assert loaded('ssd_tutorial.predict', TRAINING + METRICS) == []


def test_the_package_itself_imports_nothing_heavy():
    assert loaded('ssd_tutorial', [*HEAVY, 'torch', 'numpy']) == []


def test_boxes_anchors_and_loss_import_in_the_time_of_torch():
    "CPU time of one process, so that a busy machine changes little; the best of four tries."
    assert any(float(python(TIMES)) <= 1.3 for _ in range(4))


def test_everything_public_has_a_docstring_and_importing_writes_and_asks_nothing(tmp_path):
    """One process for all, as importing everything takes seconds.

    What only evaluation and export need is loaded when they are called.
    """
    head = f'MODULES = {MODULES}\nMETRICS = {METRICS}\n'
    *lines, metrics = python(head + PUBLIC, cwd=tmp_path).splitlines()
    assert len(lines) > 60 and [l for l in lines if l.startswith('bare')] == []
    assert metrics == '[]'
    assert list(tmp_path.iterdir()) == []


def test_type_checkers_are_told_that_the_package_is_annotated():
    "PEP 561; the tests also run on the installed wheel, so the file is in it."
    assert (FOLDER/'py.typed').is_file()


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version
    # in a clone the number of commits is added
    assert ssd_tutorial.__version__ == version('ssd_tutorial').partition('.post')[0]
