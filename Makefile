# `make demo` and `make test` do all of their own set-up and can be run again; `make build` is that set-up alone.
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
FUZZ_SECONDS ?= 300
FUZZ_ROUNDS ?= 5000

BUILD_PACKAGES := gcc libc6-dev python3-dev python3-venv libssl-dev ffmpeg
TEST_PACKAGES := gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
	gstreamer1.0-plugins-ugly gstreamer1.0-libav python3-gst-1.0 iproute2 systemd
PAGE_PACKAGES := chromium
PEER_PACKAGES := gcc libc6-dev ffmpeg gstreamer1.0-tools gstreamer1.0-plugins-good srt-tools rist-tools socat \
	rtpengine-daemon coturn
LAB_PEER_PACKAGES := srt-tools rist-tools
ROUNDS ?= 5
SECONDS ?= 60
STUBS := $(addprefix relay_ext.,clock control crypto delay handover shards engine load alarms seal rtp payload rlc rlc_encoder gf256 timer \
	transit pacer)
ASAN_TESTS := $(addsuffix .py,$(addprefix tests/unit/test_,plane plane_commands plane_paths handover ingest shards relay subscribe delay playout path streams rlc gf256 seal rtp_ext \
	payload payload_formats feedback timer transit pacer)) tests/fuzz $(addsuffix .py,$(addprefix tests/integration/test_,engine bench threads))
DEPLOY_PACKAGES := debootstrap systemd-container openssh-client iproute2
ARM_PACKAGES := gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf qemu-user-static
BENCH_PACKAGES := libisal-dev
SOURCES := pyproject.toml setup.py $(wildcard relay_ext/*.pyx relay_ext/*.pxd relay_ext/csrc/*)

.PHONY: build demo test test-deploy test-arm lint fuzz test-asan bench bench-peers lab lab-peers wheels wheel-arm64 clean

build: .venv/built

demo: build
	.venv/bin/relay demo $(DEMO)

test: build .venv/test-packages lint
	@$(MAKE) --no-print-directory .venv/page-packages || true
	@$(MAKE) --no-print-directory .venv/bin/promtool || echo "promtool could not be had: alarms are not tried"
	$(PY) -m pytest --ignore=tests/sim
	$(PY) -m pytest -n logical tests/sim

# Where these two cannot be done (no apt, no root, another processor) they say so and pass.
test-deploy: build
	@$(MAKE) --no-print-directory .venv/deploy-packages || true
	tests/deploy/test

test-arm: build
	@$(MAKE) --no-print-directory .venv/arm-packages || true
	tests/arm/test

lint: build
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy
	cd deploy/ansible && PATH=$(CURDIR)/.venv/bin:$$PATH ansible-lint -q
	MYPYPATH=. $(PY) -m mypy.stubtest --concise --ignore-disjoint-bases --ignore-unused-allowlist \
		--allowlist tests/stubtest.txt $(STUBS)

fuzz: build
	RELAY_FUZZ_SECONDS=$(FUZZ_SECONDS) RELAY_FUZZ_ROUNDS=$(FUZZ_ROUNDS) $(PY) -m pytest tests/fuzz -s

# A copy of the tree is built with AddressSanitizer and UBSan; Python itself is not, so leaks are not looked for.
test-asan: build
	rm -rf build/asan && mkdir -p build/asan
	cp -r relay relay_ext tests setup.py pyproject.toml README.md LICENSE build/asan/
	rm -f build/asan/relay_ext/*.so
	cd build/asan && RELAY_EXT_ASAN=1 ../../$(PY) setup.py --quiet build_ext --inplace
	cd build/asan && LD_PRELOAD=$$(gcc -print-file-name=libasan.so) PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
		../../$(PY) -m pytest -q -p no:cacheprovider $(ASAN_TESTS)

bench: build .venv/bench-packages
	$(PY) -m pytest tests/benchmarks --benchmark-enable --benchmark-only -s

# PEERS='--load fan-out --only rtpengine' chooses; see `python -m tests.benchmarks.peers --help`.
bench-peers: build
	tests/benchmarks/peers/install.sh $(PEER_PACKAGES)
	$(PY) -m tests.benchmarks.peers --rounds $(ROUNDS) $(PEERS)

# What docs/loss.md, docs/congestion.md and docs/fleet.md show, at full size; each table says how long it will take.
# LAB='--packets 24000 --seeds 2 --only W1 W6', LAB_REAL='--seconds 10 --only W1' and LAB_FLEET='--edges 100 --hours 2' choose.
lab: build
	@status=0; for table in "real $(LAB_REAL)" "capacity --real --seeds 2" capacity failover "grid $(LAB)" "fleet $(LAB_FLEET)"; do \
		$(PY) -m relay.lab.$$table --check || status=1; done; exit $$status

# LAB_PEERS='--only rist --link 30' chooses; see `python -m tests.benchmarks.rivals --help`.
lab-peers: build
	tests/benchmarks/peers/install.sh $(LAB_PEER_PACKAGES)
	$(PY) -m tests.benchmarks.rivals --seconds $(SECONDS) $(LAB_PEERS)

# The program's and those of all that it needs at run time: a device installs from them, without a compiler or an index.
wheels: build
	.venv/bin/pip wheel --quiet --disable-pip-version-check --wheel-dir dist .

# Cross-built; `wheels` builds for this machine.
wheel-arm64: build .venv/arm-packages
	tests/arm/cross arm64 bdist_wheel --dist-dir $(CURDIR)/dist
	.venv/bin/pip download --quiet --disable-pip-version-check --dest dist --only-binary=:all: --platform linux_aarch64 \
		$(addprefix --platform ,manylinux2014_aarch64 manylinux_2_17_aarch64 manylinux_2_28_aarch64) \
		$$(ls -t dist/edge_relay-*-linux_aarch64.whl | head -n 1)

clean:
	rm -rf .venv build dist *.egg-info relay_ext/*.so

# Debian packages that are missing are installed; where there is no apt, or no right to use it, it says which.
define install_packages
	@missing=$$(for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		echo "installing Debian packages:" $$missing; \
		sudo=$$([ $$(id -u) = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq $$missing >/dev/null \
			|| { echo "install these packages, then run make again:" $$missing; exit 1; }; \
	fi
endef

.venv/build-packages:
	$(call install_packages,$(BUILD_PACKAGES))
	@mkdir -p .venv && touch $@

.venv/test-packages:
	$(call install_packages,$(TEST_PACKAGES))
	@mkdir -p .venv && touch $@

# Where they cannot be had (Ubuntu has Chromium as a snap alone), the tests that want them are skipped.
.venv/page-packages:
	$(call install_packages,$(PAGE_PACKAGES))
	@mkdir -p .venv && touch $@

# Of Debian's package of Prometheus this alone, since to install that would start a server.
.venv/bin/promtool: .venv/bin/pip
	@cd .venv && apt-get download -qq prometheus 2>/dev/null && \
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --touch -C bin --strip-components=3 ./usr/bin/promtool
	@rm -f .venv/prometheus_*.deb

.venv/deploy-packages:
	$(call install_packages,$(DEPLOY_PACKAGES))
	@mkdir -p .venv && touch $@

.venv/arm-packages:
	$(call install_packages,$(ARM_PACKAGES))
	@mkdir -p .venv && touch $@

# zfec has no Debian package that a virtual environment sees; without it its row is missing.
.venv/bench-packages: .venv/built
	$(call install_packages,$(BENCH_PACKAGES))
	.venv/bin/pip install --quiet --disable-pip-version-check zfec || echo "zfec could not be installed"
	@touch $@

.venv/bin/pip: .venv/build-packages
	$(PYTHON) -m venv .venv
	@touch $@

.venv/built: .venv/bin/pip $(SOURCES)
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
