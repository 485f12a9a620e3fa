# `make demo` and `make test` first set up what they need. All they require is Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin
CPP_PACKAGES := ccache g++ libcli11-dev libjpeg-dev libpng-dev libssl-dev libtiff-dev

.PHONY: demo test check bench bench-reference mutants soak fuzz audit sbom cpp-needs browser-needs .venv-triton .venv-bioimageio .venv-fuzz .venv-audit clean
.DELETE_ON_ERROR:

demo: .venv/.ready
	$(BIN)/msal-deploy predict docs/images/tissue.png --mpp 0.5 --out runs/predict
	$(BIN)/msal-deploy run --out runs/demo

# Two workers share the cores, so torch's idle threads must sleep instead of spinning. A worker that crashes ends the run:
# pytest-xdist hands a new worker what the old one had finished, and then waits for it forever.
test: .venv/.ready cpp-needs browser-needs
	$(MAKE) --jobs 2 --output-sync check .venv-triton .venv-bioimageio
	OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Are the ratios that matter what they were? Under five minutes on two cores, and some more the first time, for the bundle.
# Exit 1 if one got worse beyond noise on the processor of the reference; on another one, nothing is judged.
GUARD := build/bench/bundle --suite guard --json
REFERENCE = $(lastword $(sort $(wildcard benchmarks/results/*-bench-guard.json)))
bench: build/bench/bundle/manifest.json
	$(BIN)/msal-deploy bench $(GUARD) build/bench/guard.json $(addprefix --compare ,$(REFERENCE))

# Write a new reference, on an idle machine; DEVICE is part of its name.
DEVICE ?= $(error name the machine: make bench-reference DEVICE=epyc-2-cores)
bench-reference: build/bench/bundle/manifest.json
	$(BIN)/msal-deploy bench $(GUARD) benchmarks/results/$$(date +%F)-$(DEVICE)-bench-guard.json
	$(BIN)/python benchmarks/tables.py

# The shipped weights. INT8 is calibrated on synthetic images: that suffices for its speed, not for its accuracy.
build/bench/bundle/manifest.json: .venv/.ready msal_deploy/weights/msal-net-r34.safetensors msal_deploy/export.py
	test -e build/bench/data/SHA256SUMS || $(BIN)/msal-deploy data synthesize build/bench/data
	$(BIN)/msal-deploy export --out build/bench/bundle --int8 --calibration build/bench/data

# Do the tests notice a fault in a reported number? Half an hour on two cores: see benchmarks/mutants/README.md.
mutants: .venv/.ready
	$(BIN)/python benchmarks/mutants/run.py --json benchmarks/results/$$(date +%F)-mutants.json

# Bad inputs, kills, full disks, pairs of commands and load: two hours on two cores. See docs/reliability.md.
MINUTES ?= 12 # of fuzzing, for each parser
SOAK := OMP_WAIT_POLICY=passive $(BIN)/python tests/soak
soak: .venv/.ready
	@failed=; for script in bad_inputs kills full_disks pairs load; do \
		$(SOAK)/$$script.py --json benchmarks/results/$$(date +%F)-soak-$$(echo $$script | tr _ -).json || failed="$$failed $$script"; \
	done; $(BIN)/python tests/soak/table.py docs/reliability.md; test -z "$$failed" || { echo "Not clean:$$failed" >&2; exit 1; }

# An hour for the five parsers of msal-deploy's own formats.
fuzz: .venv-fuzz
	.venv-fuzz/bin/python tests/soak/fuzz.py --minutes $(MINUTES) --work build/fuzz --json benchmarks/results/$$(date +%F)-soak-fuzz.json

# Known vulnerabilities of what is installed. It fails where a package cannot be looked up: that is not a clean result.
audit: .venv-audit
	.venv-audit/bin/pip-audit --strict --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# The packages of the demo environment with their versions and licences, as CycloneDX.
sbom: .venv-audit
	.venv-audit/bin/cyclonedx-py environment --short-PURLs --output-reproducible --pyproject pyproject.toml $(BIN)/python \
	| $(BIN)/python tests/soak/plain_sbom.py > docs/sbom.cdx.json

.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 or later; name one that is: make PYTHON=python3.12 …" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[train,zoo,slides,dev]'
	@touch $@

# A real Triton with the Python backend. It needs numpy 1 and therefore a separate environment. Its OpenVINO has the version
# of .venv, because INT8 is bit-exact only within one version.
.venv-triton: .venv-triton/.ready
.venv-triton/.ready: .venv/.ready
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/pip install --quiet nvidia-pytriton==0.7.0 openvino==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("openvino"))')
	@touch $@

# bioimage.io's own tools, in a separate environment with the pydantic that they work with. torch and ONNX Runtime come from .venv.
.venv-bioimageio: .venv-bioimageio/.ready
.venv-bioimageio/.ready: .venv/.ready
	$(PYTHON) -m venv .venv-bioimageio
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(.venv-bioimageio/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/over-venv.pth
	.venv-bioimageio/bin/pip install --quiet 'bioimageio.core[onnx,pytorch]==0.11.0' 'pydantic<2.14'
	@touch $@

# atheris, in a separate environment over the packages of .venv.
.venv-fuzz: .venv-fuzz/.ready
.venv-fuzz/.ready: .venv/.ready
	$(PYTHON) -m venv .venv-fuzz
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(.venv-fuzz/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/over-venv.pth
	.venv-fuzz/bin/pip install --quiet atheris==3.0.0
	@touch $@

.venv-audit: .venv-audit/.ready
.venv-audit/.ready: .venv/.ready
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit cyclonedx-bom
	@touch $@

# Dependencies of the C++ library that pip does not install. The compiler looks for them, so any package manager can provide them.
cpp-needs:
	@command -v ccache >/dev/null && printf '#include <cstdio>\n#include <CLI/CLI.hpp>\n#include <jpeglib.h>\n#include <png.h>\n#include <tiffio.h>\n#include <openssl/evp.h>\n' | g++ -E -x c++ - >/dev/null 2>&1 \
	|| { SUDO=; [ "$$(id -u)" = 0 ] || SUDO=sudo; $$SUDO apt-get update -qq && $$SUDO apt-get install -qq --yes $(CPP_PACKAGES) >/dev/null; } \
	|| { echo "The C++ tests need ccache, a C++17 compiler, CLI11, libjpeg, libpng, libtiff and OpenSSL; on Debian: apt install $(CPP_PACKAGES)" >&2; exit 3; }

# A browser, in which the tests open the report. Any Chromium will do.
browser-needs:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit 0; done; \
	{ SUDO=; [ "$$(id -u)" = 0 ] || SUDO=sudo; $$SUDO apt-get update -qq && $$SUDO apt-get install -qq --yes chromium >/dev/null; } \
	|| { echo "The test of the report needs Chromium or Chrome; on Debian: apt install chromium" >&2; exit 3; }

clean:
	rm -rf .venv .venv-triton .venv-bioimageio .venv-fuzz .venv-audit runs build dist
