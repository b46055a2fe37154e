# Everything that is done with this source tree. `make` alone lists it.

CARGO ?= cargo
PREFIX ?= /usr
DESTDIR ?=

.PHONY: help test demo lint deny build install

help:
	@echo "make test     every check and test, with a real Podman and a software TPM (as root)"
	@echo "make demo     the main job, played on this machine (as root)"
	@echo "make build    optimised binaries in target/release"
	@echo "make install  put the binaries under DESTDIR/PREFIX"

test: tools lint deny
	$(CARGO) test --locked --workspace

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# cargo-deny is not packaged everywhere; the licences and sources of Cargo.lock are checked where it is.
deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	else echo "cargo-deny is not installed: licences and advisories were not checked"; fi

.PHONY: tools
tools:
	scripts/install-test-tools

demo: tools
	$(CARGO) build --locked --workspace
	scripts/demo

build:
	$(CARGO) build --locked --release

install: build
	for program in psi-serve psi-setup psi-cachectl psi-secret; do \
		install -D -m 0755 target/release/$$program $(DESTDIR)$(PREFIX)/bin/$$program || exit 1; \
	done
