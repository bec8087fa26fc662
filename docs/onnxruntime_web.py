"What runs networks in a browser: two files of a pinned package of npm, for the live page."
import hashlib
import io
import tarfile
from base64 import b64encode
from pathlib import Path
from urllib.request import urlopen

VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
# as the registry tells it, and `npm view onnxruntime-web dist.integrity`
INTEGRITY = ("sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8p"
             "ZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==")
# one thread and SIMD need no more: the interface, with its glue, and the WebAssembly
FILES = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"


def download():
    "The package. Raises `ValueError` if it is not the one that was pinned."
    try:
        with urlopen(URL, timeout=60) as answer: data = answer.read()
    except OSError as e:
        raise OSError(f"{URL}: cannot be downloaded ({e}); the live page needs it once, "
                      "later builds do not") from e
    found = "sha512-" + b64encode(hashlib.sha512(data).digest()).decode()
    if found != INTEGRITY: raise ValueError(f"{URL}: is {found}, not {INTEGRITY}")
    return data


def fetch(folder):
    "Put the files into `folder`/VERSION/live, at the first build only; gives `folder`/VERSION."
    static = Path(folder)/VERSION
    missing = [name for name in FILES if not (static/"live"/name).is_file()]
    if not missing: return static
    (static/"live").mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(download())) as package:
        for name in missing:
            data = package.extractfile(f"package/dist/{name}").read()
            part = static/"live"/f"{name}.part"
            part.write_bytes(data)
            # whole, or not there
            part.replace(static/"live"/name)
    return static
