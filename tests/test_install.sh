#!/bin/bash
# An installed copy serves others: the examples are built against it by pkg-config (shared and static) and through
# the CMake package, and run; headers, manual pages and completion are where they belong.
# Usage: test_install.sh BUILD_DIRECTORY
set -eu
build=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0
skipped=0
fail() {
    echo "FAILED: $1"
    [ ! -s "$work/log" ] || tail -n 20 "$work/log"
    exit 1
}
pass() { checks=$((checks + 1)); }
skip() { echo "skipped: $1"; skipped=$((skipped + 1)); }
try() { # WHAT COMMAND...
    local what=$1
    shift
    "$@" >"$work/log" 2>&1 || fail "$what"
    pass
}

# DESTDIR as packagers use it; what lies there is then used from where it lies.
try "installing" env DESTDIR="$work/stage" cmake --install "$build" --prefix /opt/langevin
mv "$work/stage/opt/langevin" "$work/prefix" # it can also be moved
prefix=$work/prefix
libdir=$(dirname "$(find "$prefix" -name liblangevin.a)")
for file in bin/langevin include/langevin/langevin.h share/man/man1/langevin.1 share/man/man1/langevin-train.1 \
    share/bash-completion/completions/langevin share/langevin/demo-model/model_index.json; do
    [ -e "$prefix/$file" ] || fail "$file is not installed"
    pass
done
try "the installed program" "$prefix/bin/langevin" --version

export PKG_CONFIG_PATH=$libdir/pkgconfig
sanitized=$(sed -n 's/^LGV_SANITIZE:STRING=//p' "$build/CMakeCache.txt")
cflags="-std=c11 -Wall -Wextra -Werror -O1 ${sanitized:+-fsanitize=$sanitized}"
cc=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
export LD_LIBRARY_PATH=$libdir
[ "$(pkg-config --modversion langevin)" = "$("$prefix/bin/langevin" --version | cut -d' ' -f2)" ] ||
    fail "pkg-config and the program tell different versions"
examples=$(cd examples && echo *.c)
[ "$(wc -l <examples/train_and_sample.c)" -lt 80 ] || fail "train_and_sample.c is no longer short"
mkdir "$work/shared" "$work/static"
for source in $examples; do
    name=${source%.c}
    # shellcheck disable=SC2046,SC2086
    try "$source with pkg-config" "$cc" $cflags "examples/$source" -o "$work/shared/$name" \
        $(pkg-config --cflags --libs langevin) -lm
    ldd "$work/shared/$name" | grep -q 'liblangevin\.so\.0 => '"$libdir" || fail "$name is not linked with the library"
done
# Static: the archive itself, and what pkg-config says that needs.
# shellcheck disable=SC2046,SC2086
try "custom_op.c with liblangevin.a" "$cc" $cflags examples/custom_op.c -o "$work/static/custom_op" \
    $(pkg-config --cflags langevin) "$libdir/liblangevin.a" \
    $(pkg-config --static --libs langevin | sed 's/-llangevin//')
ldd "$work/static/custom_op" | grep -q liblangevin && fail "custom_op is not linked statically"
try "the static example" "$work/static/custom_op"

cat >"$work/plus.cc" <<'END'
#include <langevin/langevin.h>
#include <string.h>
int main()
{
    return strcmp(lgv_version(), LGV_VERSION);
}
END
if command -v c++ >/dev/null; then
    # shellcheck disable=SC2046,SC2086
    try "C++ with pkg-config" c++ -Wall -Werror ${sanitized:+-fsanitize=$sanitized} "$work/plus.cc" \
        $(pkg-config --cflags --libs langevin) -o "$work/plus"
    try "the program in C++" "$work/plus"
else
    skip "there is no c++"
fi

try "configuring with the CMake package" cmake -S examples -B "$work/cmake" -DCMAKE_C_COMPILER="$cc" \
    -DCMAKE_C_FLAGS="$cflags" -DCMAKE_PREFIX_PATH="$prefix"
try "building with the CMake package" cmake --build "$work/cmake"
mkdir "$work/consumer"
cat >"$work/consumer/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.18)
project(consumer LANGUAGES C)
find_package(Langevin 0.1 REQUIRED COMPONENTS static)
add_executable(consumer ${EXAMPLE})
target_link_libraries(consumer PRIVATE Langevin::langevin_static m)
find_package(Langevin 99 QUIET)
if(Langevin_FOUND)
  message(FATAL_ERROR "version 99 is found")
endif()
END
try "configuring with component static" cmake -S "$work/consumer" -B "$work/consumer/build" -DCMAKE_C_COMPILER="$cc" \
    -DCMAKE_C_FLAGS="$cflags" -DCMAKE_PREFIX_PATH="$prefix" -DEXAMPLE="$root/examples/custom_op.c"
try "building with component static" cmake --build "$work/consumer/build"
try "the consumer" "$work/consumer/build/consumer"

# ---- run them ----
cd "$work"
mkdir pictures steps
{ printf '\0\0\10\3\0\0\0\50\0\0\0\20\0\0\0\20'; seq 1 100000 | head -c $((40 * 256)); } >pictures/train-images-idx3-ubyte
cat >tiny.json <<'END'
{"_class_name": "UNet2DModel", "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": [4, 8],
 "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"], "norm_num_groups": 4}
END
try "custom_op" cmake/custom_op
grep -q "gradient: off by" log || fail "custom_op tells nothing"
try "custom_network" cmake/custom_network 100
grep -q "step 100: loss" log || fail "custom_network tells nothing"
try "train_and_sample" shared/train_and_sample pictures model 2 tiny.json
grep -q "saved model/checkpoint-2" log || fail "train_and_sample saved nothing"
[ -s model/new.png ] || fail "train_and_sample drew nothing"
try "sample_steps" cmake/sample_steps model steps 3
[ "$(echo steps/*)" = "steps/step-00.png steps/step-01.png steps/step-02.png" ] || fail "sample_steps wrote $(echo steps/*)"
shared/sample_steps nowhere steps 2>log && fail "a model that is not there is no error"
grep -q nowhere log || fail "the error does not name the model"
pass

echo "$checks checks passed, $skipped skipped"
