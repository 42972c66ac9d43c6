# Everything a person types. Each target does the set-up that it needs; set-up that is done takes
# about a second.

PYTHON ?= python3
VENV := .venv/bin
REPORT ?= .cache/report
DEMO_ROUNDS ?= 5
PYTEST := $(VENV)/python -m pytest

# Programs such as runc, nft and ip lie where a plain `su` does not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help setup check test test-kernels demo bench soak format clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## Install system packages, CRIU (in /opt/hotstart) and .venv
	@$(PYTHON) -m tools.setup

check: setup lint ## Linters, types and unit tests: under a minute
	$(PYTEST) -q -m "not kernel and not s3 and not e2e and not soak"

.PHONY: lint
lint:
	$(VENV)/ruff check .
	$(VENV)/mypy

test: setup lint ## Everything, kernel, S3 and end-to-end tests included: under 15 minutes
	$(PYTEST) -q -m "not soak"

test-kernels: setup ## Lazy mounts under Debian's own 6.1 and 6.12 kernels, in QEMU (KERNELS=6.1: one)
	$(PYTHON) -m tools.kernels.main $(KERNELS)

demo: setup ## See a cold start and a restore side by side: about ten minutes
	$(VENV)/hotstart bench cold-start --rounds $(DEMO_ROUNDS) --no-figures --report $(REPORT)

bench: setup ## The whole benchmark, with a report
	$(VENV)/hotstart bench cold-start --json $(REPORT).json --report $(REPORT)

.PHONY: peers bench-fs
peers: setup ## Install the programs that `bench fs` compares with (s3fs, rclone, s5cmd)
	@$(VENV)/python -m tools.bench_peers

bench-fs: peers ## Files through the mount, beside other file systems: half an hour or more
	$(VENV)/hotstart bench fs --json $(REPORT)-fs.json --report $(REPORT)-fs

soak: setup ## Long runs
	$(PYTEST) -q -m soak --timeout 3600

format: setup ## Write the code as ruff formats it
	$(VENV)/ruff format .
	$(VENV)/ruff check --fix .

clean: ## Remove what was built here (.venv, caches); the demo tree in ~/.cache/hotstart stays
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
