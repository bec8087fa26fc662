#!/usr/bin/env bash
# imgaug asks for opencv-python, which needs the system's libGL. Where that is missing (a server, a container),
# the headless build of the same version takes its place.
set -euo pipefail
python=$1
"$python" -c 'import cv2' 2>/dev/null && exit 0
version=$("$python" -c 'from importlib.metadata import version; print(version("opencv-python"))')
echo "OpenCV finds no libGL here: using opencv-python-headless $version"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "opencv-python-headless==$version"
"$python" -c 'import cv2'
