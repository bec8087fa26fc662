"Packaging: everything comes from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here/"settings.ini", encoding="utf-8")
raw = parser["DEFAULT"]
# some settings are written in terms of others, as nbdev reads them
cfg = {}
for name, value in raw.items():
    cfg[name] = value.replace("%(user)s", raw["user"]).replace("%(repo)s", raw["repo"])
docs = cfg["docs_requirements"].split()
onnx = cfg["onnx_requirements"].split()
video = cfg["video_requirements"].split()

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    packages=["ssd_tutorial"],
    package_data={"ssd_tutorial": ["py.typed"]},  # its annotations are for type checkers, too
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={
        "dev": cfg["dev_requirements"].split() + docs + onnx + video,
        "docs": docs,
        "onnx": onnx,
        "video": video,
    },
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": ["ssd_tutorial=ssd_tutorial._modidx:d"],
    },
)
