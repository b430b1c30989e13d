# Langevin: `make` builds, `make test` tests, `make demo` trains on Fashion-MNIST and samples, `make install`
# installs to DESTDIR and PREFIX (default /usr/local), `make deb` makes Debian packages in BUILD/deb.
# `make fuzz` builds all fuzz targets with clang and runs them (RUNS executions of each, FUZZ_SECONDS in all, TARGETS only).
# `make deps` installs what is missing (Debian); demo and test call it. Nothing else touches the network.

BUILD ?= build
JOBS ?= $(shell nproc)
CMAKE_FLAGS ?=
DEMO ?= demo
PREFIX ?=
FUZZ_SECONDS ?= 600
RUNS ?=
TARGETS ?=

.PHONY: all build deb deps install test test-long fuzz demo clean

all: build

build:
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD) -j $(JOBS)

# What is installed is relocatable, so PREFIX needs no build of its own.
install: build
	@cmake --install $(BUILD) $(if $(PREFIX),--prefix $(PREFIX))

deb:
	@DEB_BUILD_OPTIONS="parallel=$(JOBS)" sh tools/deb.sh $(BUILD)/deb

deps:
	@sh tools/deps.sh

test: deps build
	@cd $(BUILD) && ctest --output-on-failure -LE long -j $(JOBS)

# Everything, the long checks included (hours).
test-long: deps build
	@cd $(BUILD) && ctest --output-on-failure -j $(JOBS)

# Readers use no kernels: two levels, which the device needs, keep the build short.
fuzz:
	@CC=clang cmake -S . -B $(BUILD)-fuzz -DLGV_FUZZ=ON "-DLGV_LEVELS=scalar;f64" > /dev/null
	@cmake --build $(BUILD)-fuzz --target fuzzers -j $(JOBS)
	@python3 tests/fuzz/seeds.py $(BUILD)-fuzz/seeds
	@cp -r tests/fuzz/corpus/. $(BUILD)-fuzz/seeds
	@RUNS=$(RUNS) TARGETS="$(TARGETS)" bash tests/fuzz/run.sh $(BUILD)-fuzz/tests/fuzz \
	    $(BUILD)-fuzz/seeds $(BUILD)-fuzz/found $(FUZZ_SECONDS) $(JOBS)

demo: deps build
	@sh tools/demo.sh $(BUILD)/langevin $(DEMO)

clean:
	rm -rf $(BUILD)
