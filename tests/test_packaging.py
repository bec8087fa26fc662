import subprocess
import sys

HEAVY = ['fastai', 'torchvision', 'imgaug', 'matplotlib', 'PIL', 'pandas', 'fastcore']
METRICS = ['torchmetrics', 'pycocotools', 'onnx', 'onnxscript', 'onnxruntime']
MODULES = 'boxes data shapes show augment model anchors loss train predict evaluate cli'.split()


def python(code, cwd=None):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_boxes_anchors_and_loss_need_torch_only():
    code = 'import sys, ssd_tutorial.boxes, ssd_tutorial.anchors, ssd_tutorial.loss'
    assert python(f'{code}; print([m for m in {HEAVY + METRICS} if m in sys.modules])').strip() == '[]'


def test_the_package_itself_imports_nothing_heavy():
    assert python(f'import sys, ssd_tutorial; print([m for m in {[*HEAVY, "torch", "numpy"]} if m in sys.modules])').strip() == '[]'


def test_boxes_anchors_and_loss_import_in_the_time_of_torch():
    "CPU time of one process, so that a busy machine changes little; the best of up to four tries."
    code = 'import time; a = time.process_time(); import torch; b = time.process_time()\n' \
           'import ssd_tutorial.boxes, ssd_tutorial.anchors, ssd_tutorial.loss; print((time.process_time() - a) / (b - a))'
    assert any(float(python(code)) <= 1.3 for _ in range(4))


def test_everything_public_has_a_docstring_and_importing_writes_and_asks_nothing(tmp_path):
    "One process for all, as importing everything takes seconds. What only evaluation and export need is loaded when they are called."
    code = f'''
import sys
def no_network(event, args):
    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.bind', 'urllib.Request'): raise RuntimeError(f'{{event}} {{args}}')
sys.addaudithook(no_network)
import importlib, inspect
for name in {MODULES}:
    module = importlib.import_module(f'ssd_tutorial.{{name}}')
    assert module.__doc__, name
    assert module.__all__, name
    for n in module.__all__:
        o = getattr(module, n)
        if inspect.isclass(o) or inspect.isfunction(o): print('ok' if o.__doc__ and not o.__doc__.startswith(n + '(') else 'bare', name, n)
print([m for m in {METRICS} if m in sys.modules])
'''
    *lines, loaded = python(code, cwd=tmp_path).splitlines()
    assert len(lines) > 60 and [l for l in lines if l.startswith('bare')] == []
    assert loaded == '[]'
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    import ssd_tutorial
    assert ssd_tutorial.__version__ == version('ssd_tutorial')
