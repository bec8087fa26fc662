# One environment in .venv for everything. `make demo` needs no more than the library, `make test` the development extra.
PYTHON ?= python3
PY := .venv/bin/python
CHAPTERS := nbs/first_look.ipynb $(sort $(wildcard nbs/[0-9]*.ipynb)) nbs/index.ipynb $(wildcard nbs/tutorials/*.ipynb)

# photographs for the ladder, such as cards=DIR bccd=DIR
PHOTOS ?=

.PHONY: demo test test-lowest live fuzz fuzz-guided coverage ladder notebooks docs docs-serve export check readme lint wheel clean

demo: .venv/installed  ## train a detector on the embedded data set, judge it and show its errors
	.venv/bin/ssd_train --data shapes --out runs/demo --overwrite

test: .venv/dev docs  ## every chapter and every test, two at a time with one thread each
	OMP_NUM_THREADS=1 .venv/bin/nbdev-test --n-workers 2
	$(PY) -m pytest -n 2 --dist worksteal

runs/demo/detector.pt:
	$(MAKE) demo

notebooks: .venv/dev runs/demo/detector.pt  ## run all chapters in place and keep their outputs
	$(PY) tools/run_notebooks.py $(CHAPTERS)
	.venv/bin/nbdev-clean

# Sphinx reads _proc/site, where docs/conf.py puts the notebooks and the API pages together
SPHINX := -W --keep-going -c docs -d _proc/doctrees _proc/site _docs

docs: .venv/dev  ## the site, in _docs
	mkdir -p _proc/site
	.venv/bin/sphinx-build --quiet $(SPHINX)

docs-serve: .venv/dev  ## the site on http://127.0.0.1:8000, built again on every change
	mkdir -p _proc/site
	.venv/bin/sphinx-autobuild --watch nbs --watch docs --watch ssd_tutorial --ignore _proc $(SPHINX)

export: .venv/dev  ## notebooks to modules
	.venv/bin/nbdev-clean
	.venv/bin/nbdev-export

check: export readme  ## notebooks, modules and README agree
	git diff --exit-code -- nbs ssd_tutorial README.md docs
	test -z "$$(git status --porcelain -- nbs ssd_tutorial README.md docs)"

readme: .venv/dev  ## README.md from nbs/index.ipynb
	$(PY) tools/make_readme.py

lint: .venv/dev
	.venv/bin/ruff check .

test-lowest:  ## the tests on the lowest versions that settings.ini allows, in .venv-lowest
	bash tools/test_lowest.sh

live: .venv/dev  ## train the network of the live page, and write it as a browser reads it
	OMP_NUM_THREADS=1 $(PY) tools/make_live.py runs/live

fuzz: .venv/dev  ## ten thousand damaged files and random numbers for each reader, loss and so on; thirty kills
	FUZZ=10000 $(PY) -m pytest -n 2 tests/test_fuzz.py
	KILLS=30 $(PY) -m pytest -n 2 tests/test_resume.py -k killed

fuzz-guided: .venv/dev  ## a minute for each reader, guided by which lines run (Linux)
	$(PY) -m pip install --quiet --disable-pip-version-check atheris
	for name in voc coco yolo image; do $(PY) tools/fuzz_guided.py $$name 60 || exit 1; done

coverage: .venv/dev docs  ## lines of the package that notebooks and tests run
	rm -f .coverage
	OMP_NUM_THREADS=1 $(PY) -m coverage run --source ssd_tutorial .venv/bin/nbdev-test --n-workers 0
	$(PY) -m pytest -n 2 --cov ssd_tutorial --cov-append --cov-report term

ladder: .venv/dev  ## train what chapter 20 compares, as far as it is not done, and run the chapter
	cd benchmarks && OMP_NUM_THREADS=1 ../$(PY) ladder.py --data shapes hard $(PHOTOS) | tee -a ladder.log
	$(PY) tools/run_notebooks.py nbs/20_ladder.ipynb

wheel: .venv/dev  ## build wheel and sdist; both must work in a fresh environment
	rm -rf dist build
	$(PY) -m build --quiet
	bash tools/check_wheel.sh

clean:
	rm -rf .venv .venv-wheel build dist runs _docs _proc .fuzz *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage .venv-lowest ssd_tutorial/__pycache__

# Installed once, again when the packaging changes. An interrupted install leaves no stamp and is repeated.
.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv .venv || (echo "Could not make .venv; on Debian and Ubuntu: apt-get install python3-venv" && rm -rf .venv && exit 1)

.venv/installed: .venv/bin/python settings.ini setup.py pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	bash tools/check_opencv.sh $(PY)
	touch $@

.venv/dev: .venv/bin/python settings.ini setup.py pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	bash tools/check_opencv.sh $(PY)
	touch $@ .venv/installed
