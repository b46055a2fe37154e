# Everything that is done with this source tree. `make` alone lists it.

CARGO ?= cargo
PREFIX ?= /usr
DESTDIR ?=

.PHONY: help test bench demo lint deny fuzz build man completions install image

help:
	@echo "make test     every check and test, with a real Podman and a software TPM (as root)"
	@echo "make bench    what lookups, start, hand-over and memory cost, beside their goals"
	@echo "make fuzz     every fuzz target for SECONDS=60 each; needs cargo-fuzz and a C++ compiler"
	@echo "make demo     the main job, played on this machine (as root)"
	@echo "make build    optimised binaries in target/release"
	@echo "make man      man pages in target/share/man, completions beside them"
	@echo "make install  put programs, units, man pages and completions under DESTDIR/PREFIX"
	@echo "make image    the container image localhost/psi:1, for the quadlets"

test: tools lint deny
	$(CARGO) test --locked --workspace

# Ends with an error if a goal is missed. The quotes are for cargo: every bench.
bench:
	$(CARGO) bench --locked --no-fail-fast --bench '*'

lint:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# Licences, duplicates and sources. Advisories change without us: `cargo deny check advisories`.
deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked --quiet cargo-deny@0.20.2
	$(CARGO) deny check licenses bans sources

# Without a sanitizer, since none of this is unsafe code, so that the stable compiler will do. What a
# run has found out lies in fuzz/corpus and the next one goes on from there; what failed, in
# fuzz/artifacts. An input may take a minute: on a busy machine one was timed at 36 s that takes no time
# when it is run again.
SECONDS ?= 60
FUZZ_TARGETS = $(basename $(notdir $(wildcard fuzz/targets/*.rs)))

fuzz:
	@$(CARGO) fuzz --version >/dev/null 2>&1 || \
	{ echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 1; }
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/corpus/$$target && \
		$(CARGO) fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(SECONDS) -timeout=60 || exit 1; \
	done

.PHONY: tools
tools:
	scripts/install-test-tools

demo: tools
	$(CARGO) build --locked --workspace
	scripts/demo

build:
	$(CARGO) build --locked --release --package psi --package psi-manual

# Made from what --help says.
man completions:
	$(CARGO) run --locked --package psi-manual -- target/share

# Each in the place where it is searched for, with the programs' paths in the units. Programs built
# elsewhere: `make -o build install PROGRAMS=DIRECTORY`.
PROGRAMS ?= target/release
SYSTEMD = $(DESTDIR)$(PREFIX)/lib/systemd
# What not every machine needs: kept in PREFIX/share/psi, with the quadlets.
OPTIONAL = units/tpm units/hsm units/migrated-key units/before-254 units/containers.conf.d

# Podman may start a program at any time: each is there, and whole, while it is replaced.
install: build
	for program in psi-serve psi-setup psi-cachectl psi-hsm psi-secret psi-install; do \
		new=$(DESTDIR)$(PREFIX)/bin/.$$program.new; \
		install -D -m 0755 $(PROGRAMS)/$$program $$new && mv $$new $(DESTDIR)$(PREFIX)/bin/$$program || exit 1; \
	done
	install -d $(SYSTEMD)/system $(SYSTEMD)/user $(DESTDIR)$(PREFIX)/share/psi
	install -m 0644 $(wildcard units/*.socket units/*.service units/*.timer) $(SYSTEMD)/system
	install -m 0644 $(wildcard units/user/*) $(SYSTEMD)/user
	sed -i 's|=/usr/bin/psi|=$(PREFIX)/bin/psi|' $(SYSTEMD)/system/psi-*.service $(SYSTEMD)/user/psi-*.service
	for kind in system user; do \
		install -D -m 0644 units/psi.preset $(SYSTEMD)/$$kind-preset/90-psi.preset || exit 1; \
	done
	install -D -m 0644 units/psi.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/psi.conf
	install -D -m 0644 units/psi.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/psi.conf
	for file in $$(find quadlets $(OPTIONAL) -type f); do \
		install -D -m 0644 $$file $(DESTDIR)$(PREFIX)/share/psi/$$file || exit 1; \
	done
	install -D -m 0644 units/psi.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/psi.catalog
	umask 022 && $(PROGRAMS)/psi-manual $(DESTDIR)$(PREFIX)/share

# What is installed, over BASE: see Containerfile. BUILD_FLAGS are podman's.
IMAGE ?= localhost/psi:1

image:
	rm -rf target/image
	$(MAKE) install DESTDIR=target/image PREFIX=/usr
	podman build $(BUILD_FLAGS) --tag $(IMAGE) .
