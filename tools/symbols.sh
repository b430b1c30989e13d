#!/bin/sh
# Prints debian/liblangevin0.symbols: what liblangevin.so exports. A line that goes away, or a signature or struct that
# changes, is a new soname (docs/embedding.md, "Versions").  symbols.sh BUILD > debian/liblangevin0.symbols
set -eu
echo "liblangevin.so.0 liblangevin0 #MINVER#"
echo "* Build-Depends-Package: liblangevin-dev"
nm -D --defined-only "$1/liblangevin.so" | awk '$3 ~ /^lgv_/ {print " " $3 "@Base 0.1.0"}' | LC_ALL=C sort
