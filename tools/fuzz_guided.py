"""A fuzzer that is guided by which lines run: fuzz_guided.py voc|coco|yolo|image [SECONDS]

For the nightly run, beside the random cases of tests/test_fuzz.py, whose files and checks it
uses. atheris changes one file of a small data set again and again and keeps what reaches new
lines of the readers. A case that raises anything but a clear error, gives boxes that make no
sense, or takes longer than ten seconds ends it with a status that is not 0, and lies in
.fuzz/NAME/crash-*. `make fuzz-guided` installs atheris, which has wheels for Linux only.
"""
import sys
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tests'))
with atheris.instrument_imports(include=['ssd_tutorial.readers', 'xml', 'json', 'PIL']):
    from ssd_tutorial.readers import load_image, read_coco, read_voc, read_yolo

from makers import make_coco, make_voc, noise, voc_object  # noqa: E402
from test_fuzz import read_or_refuse  # noqa: E402


def voc(root):
    two = [voc_object(), voc_object('dog', (8, 9, 40, 30))]
    make_voc(root/'set', ['a', 'b'], dict(train=['a', 'b']), two)
    return root/'set'/'Annotations'/'a.xml', lambda file: read_or_refuse(read_voc, root/'set')


def coco(root):
    file = make_coco(root/'set'/'train.json', n=3)
    return file, lambda file: read_or_refuse(read_coco, file)


def yolo(root):
    noise(root/'set'/'a.png')
    (root/'set'/'classes.txt').write_text('cat\ndog\n')
    file = root/'set'/'a.txt'
    file.write_bytes(b'0 0.5 0.5 0.2 0.3\n1 0.25 0.75 0.1 0.1\n1 0.1 0.1 0.2 0.1 0.2 0.3\n')
    return file, lambda file: read_or_refuse(read_yolo, root/'set')


def image(root):
    def look(file):
        try: load_image(file)
        except (FileNotFoundError, ValueError) as e: assert str(file) in str(e)
    return noise(root/'a.png', (8, 8)), look


def main(name, seconds=60):
    folder = ROOT/'.fuzz'/name
    (folder/'corpus').mkdir(parents=True, exist_ok=True)
    file, check = {f.__name__: f for f in (voc, coco, yolo, image)}[name](folder)
    (folder/'corpus'/'whole').write_bytes(file.read_bytes())

    def one(content):
        file.write_bytes(content)
        check(file)

    options = [f'-max_total_time={seconds}', '-timeout=10', f'-artifact_prefix={folder}/']
    atheris.Setup([sys.argv[0], *options, str(folder/'corpus')], one)
    atheris.Fuzz()


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main(*sys.argv[1:])
