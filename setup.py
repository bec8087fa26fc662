"Packaging: everything comes from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
cfg = ConfigParser(delimiters=["="], interpolation=None)
cfg.read(here/"settings.ini", encoding="utf-8")
cfg = {k: v.replace("%(user)s", cfg["DEFAULT"]["user"]).replace("%(repo)s", cfg["DEFAULT"]["repo"])
       for k, v in cfg["DEFAULT"].items()}

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
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": " ".join(cfg[f"{k}_requirements"] for k in ("dev", "docs", "onnx")).split(),
                    "docs": cfg["docs_requirements"].split(), "onnx": cfg["onnx_requirements"].split()},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": ["ssd_tutorial=ssd_tutorial._modidx:d"],
    },
)
