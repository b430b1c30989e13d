#!/bin/sh
# Installs what building, testing and the demo need, if anything is missing. Debian and its relatives.
set -eu

missing=""
need() { # need PACKAGE TEST...
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
has_module() { command -v pkg-config >/dev/null && pkg-config --exists "$1"; }

need gcc command -v cc
need libc6-dev test -e /usr/include/stdlib.h
need make command -v make
need cmake command -v cmake
need pkg-config command -v pkg-config
need libjansson-dev has_module jansson
need libpng-dev has_module libpng
need libjpeg-dev has_module libjpeg
need libwebp-dev has_module libwebp
need libgif-dev test -e /usr/include/gif_lib.h
need libarchive-dev has_module libarchive
need zlib1g-dev has_module zlib
need libpopt-dev has_module popt
need libcairo2-dev has_module cairo
need libcmocka-dev has_module cmocka
need dataset-fashion-mnist test -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz

[ -n "$missing" ] || exit 0
install="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Missing packages. As root, run:  apt-get update && $install" >&2
    exit 1
fi
echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
$install >/dev/null
