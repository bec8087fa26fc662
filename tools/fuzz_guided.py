"""A fuzzer that is guided by which lines run: fuzz_guided.py voc|coco|yolo|image [SECONDS]

For the nightly run, beside the random cases of tests/test_fuzz.py, whose files and checks it
uses. atheris changes one file of a small data set again and again and keeps what reaches new
lines of the readers. A case that raises anything but a clear error, gives boxes that make no
sense, or takes longer than ten seconds ends it with a status that is not 0; it lies in
.fuzz/NAME as crash-* or timeout-*. `make fuzz-guided` installs atheris, for Linux only.
"""
import sys
import warnings
from functools import partial
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tests'))
with atheris.instrument_imports(include=['ssd_tutorial.readers', 'xml', 'json', 'PIL']):
    from ssd_tutorial.readers import read_coco, read_voc, read_yolo

from makers import make_coco, noise  # noqa: E402
from test_fuzz import look_or_refuse, read_or_refuse, voc_set, yolo_set  # noqa: E402


def voc(root): return voc_set(root/'set'), partial(read_or_refuse, read_voc, root/'set')


def coco(root):
    file = make_coco(root/'set'/'train.json', n=3)
    return file, partial(read_or_refuse, read_coco, file)


def yolo(root): return yolo_set(root/'set'), partial(read_or_refuse, read_yolo, root/'set')


def image(root):
    file = noise(root/'a.png', (8, 8))
    return file, partial(look_or_refuse, file)


def main(name, seconds=60):
    folder = ROOT/'.fuzz'/name
    (folder/'corpus').mkdir(parents=True, exist_ok=True)
    file, check = {f.__name__: f for f in (voc, coco, yolo, image)}[name](folder)
    (folder/'corpus'/'whole').write_bytes(file.read_bytes())

    def one(content):
        file.write_bytes(content)
        check()

    options = [f'-max_total_time={seconds}', '-timeout=10', f'-artifact_prefix={folder}/']
    atheris.Setup([sys.argv[0], *options, str(folder/'corpus')], one)
    atheris.Fuzz()


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main(*sys.argv[1:])
