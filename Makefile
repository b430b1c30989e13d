# Langevin: `make` builds, `make test` tests, `make demo` trains on Fashion-MNIST and samples, `make install`
# installs to DESTDIR and PREFIX (default /usr/local), `make deb` makes Debian packages in BUILD/deb.
# `make deps` installs what is missing (Debian); demo and test call it. Nothing else touches the network.

BUILD ?= build
JOBS ?= $(shell nproc)
CMAKE_FLAGS ?=
DEMO ?= demo
PREFIX ?=

.PHONY: all build deb deps install test test-long demo clean

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

demo: deps build
	@sh tools/demo.sh $(BUILD)/langevin $(DEMO)

clean:
	rm -rf $(BUILD)
