# `make help` lists the targets. The work is done by the scripts in ci/.

export PATH := $(CURDIR)/target/dist:$(PATH)

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: packages
packages: ## Install the Debian packages that everything below needs
	@ci/install-packages

.PHONY: build
build: packages ## Build the programs into target/dist
	@ci/build

.PHONY: image
image: build ## Build what a node boots: kernel, agent, root image
	@target/dist/bulkhead image build

.PHONY: demo
demo: image ## Create a cluster of three microVMs and run a pod in it
	@ci/demo

.PHONY: lint
lint: packages ## Formatting, clippy, licences
	@ci/install-tools
	@ci/lint

.PHONY: test
test: packages ## Everything: lint, unit, integration, end-to-end
	@ci/test

.PHONY: fuzz
fuzz: packages ## Fuzz every parser of hostile bytes, ten seconds each
	@ci/fuzz

.PHONY: bench
bench: image ## Print the table of figures, against QEMU
	@ci/bench

.PHONY: bench-net
bench-net: image ## Print the network's figures, against QEMU
	@ci/bench-net

.PHONY: bench-api
bench-api: packages ## Print the control plane's figures
	@ci/bench-api
