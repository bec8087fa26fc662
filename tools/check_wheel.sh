#!/usr/bin/env bash
# Install the wheel into a fresh environment with the newest fastai and fastcore, without the development extra,
# and run the tests of the sdist from a folder where the sources are not seen. Then the sdist: it must build and import.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/.venv-wheel
rm -rf "$venv"
python3 -m venv "$venv"
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
pip install dist/*.whl pytest hypothesis
bash tools/check_opencv.sh "$venv/bin/python"
away=$(mktemp -d)
trap 'rm -rf "$away" "$venv"' EXIT
tar --extract --gzip --file dist/*.tar.gz --directory "$away" --strip-components 1
rm -r "$away/ssd_tutorial" # the wheel's is meant
(cd "$away" && "$venv/bin/python" -m pytest)
pip uninstall --yes ssd-tutorial
pip install --no-deps dist/*.tar.gz
(cd "$away" && "$venv/bin/ssd_train" --help >/dev/null && "$venv/bin/python" -c "import ssd_tutorial.predict as p; assert 'site-packages' in p.__file__")
"$venv/bin/python" -m pip list 2>/dev/null | grep -iE '^(torch|torchvision|fastai|fastcore|imgaug|numpy) ' # what it was tried with
