"Packaging: everything comes from settings.ini."
import re
import subprocess
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


def version():
    """The version, and in a clone the number of commits: 0.1.0.post321.

    pip installs again only what has another version; so the newest commit always counts.
    """
    # a source distribution keeps the version that it was made with
    if (here/"PKG-INFO").is_file():
        said = (here/"PKG-INFO").read_text(encoding="utf-8")
        return re.search(r"^Version: (\S+)", said, re.MULTILINE)[1]
    if not (here/".git").exists(): return cfg["version"]
    try:
        # of a clone without its past the number would say nothing
        if git("rev-parse", "--is-shallow-repository") == "true": return cfg["version"]
        return f"{cfg['version']}.post{git('rev-list', '--count', 'HEAD')}"
    except (OSError, subprocess.CalledProcessError): return cfg["version"]


def git(*args):
    return subprocess.check_output(["git", *args], cwd=here, text=True,
                                   stderr=subprocess.DEVNULL).strip()


pages = f"https://{raw['user']}.github.io/{raw['repo']}/"
setup(
    name=cfg["lib_name"],
    version=version(),
    description=cfg["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={
        "Documentation": pages,
        "Issues": f"{cfg['git_url']}/issues",
        "Changelog": f"{cfg['git_url']}/blob/main/CHANGELOG.md",
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
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
