#!/usr/bin/env bash
# The tests on the lowest versions that settings.ini allows, in .venv-lowest: on the lowest Python, if there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/.venv-lowest
lowest=python$(sed -n 's/^min_python = //p' settings.ini)
"$lowest" --version >/dev/null 2>&1 || lowest=python3
rm -rf "$venv"
"$lowest" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --resolution lowest-direct . "pytest>=8" "pytest-xdist>=3.6" "hypothesis>=6.100"
bash tools/check_opencv.sh "$venv/bin/python"
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
cp -r tests pyproject.toml "$away"
(cd "$away" && "$venv/bin/python" -m pytest -n 2)
"$venv/bin/python" --version
"$venv/bin/uv" pip list --quiet --python "$venv/bin/python" | grep -iE '^(torch|torchvision|fastai|fastcore|numpy|pillow|matplotlib) '
