#!/bin/bash
# The library as others see it: every public header compiles alone, as C and as C++, without a warning;
# liblangevin.so has its soname and exports exactly the functions that the headers mark LGV_API and that
# debian/liblangevin0.symbols lists; the program needs nothing else of the library; the reference has every function.
# Usage: test_library.sh BUILD_DIRECTORY
set -eu
build=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0
skipped=0
fail() {
    echo "FAILED: $1"
    exit 1
}
pass() { checks=$((checks + 1)); }
skip() { echo "skipped: $1"; skipped=$((skipped + 1)); }

# ---- headers ----
for compiler in gcc g++ clang clang++; do
    command -v $compiler >/dev/null || { skip "there is no $compiler"; continue; }
    case $compiler in
    *++) language="-x c++ -std=c++11" ;;
    *) language="-x c -std=c11" ;;
    esac
    for header in include/langevin/*.h; do
        # Twice: guards hold. Not as the main file, where a guard would not be seen.
        echo "#include <langevin/${header##*/}>
#include <langevin/${header##*/}>" >"$work/one.c"
        # shellcheck disable=SC2086
        $compiler $language -pedantic -Wall -Wextra -Werror -Iinclude -fsyntax-only "$work/one.c" ||
            fail "$header does not compile alone with $compiler"
        pass
        grep -q "#include \"${header##*/}\"" include/langevin/langevin.h ||
            [ "$header" = include/langevin/langevin.h ] || fail "langevin.h lacks $header"
        grep -q 'extern "C"' "$header" || [ "$header" = include/langevin/langevin.h ] ||
            fail "$header has no extern \"C\""
    done
done

# ---- exports ----
library=$build/liblangevin.so
version=$(sed -n 's/^#define LGV_VERSION  *"\(.*\)".*/\1/p' include/langevin/version.h)
[ -e "$library.$version" ] || fail "there is no $library.$version"
soname=$(objdump -p "$library" | awk '$1 == "SONAME" {print $2}')
[ "$soname" = liblangevin.so.0 ] || fail "the soname is '$soname'"
pass
export LC_ALL=C
gcc -E -P include/langevin/langevin.h | tr '\n' ' ' | sed 's/__attribute__((visibility("default")))/\n@/g' |
    sed -n 's/^@[^(]*[ *]\([a-z0-9_]*\)(.*/\1/p' | sort >"$work/marked"
# Sanitizers leave symbols of their own.
nm -D --defined-only "$library" | awk '$2 != "w" {print $3}' | grep -vE '^(__(asan|ubsan|tsan|odr)_|_fini$|_init$)' |
    sort >"$work/exported"
[ "$(wc -l <"$work/marked")" -gt 100 ] || fail "the headers mark $(wc -l <"$work/marked") functions only"
diff "$work/marked" "$work/exported" >"$work/diff" || {
    head -n 20 "$work/diff"
    fail "LGV_API of the headers (<) and the exported symbols (>) differ"
}
pass
sh tools/symbols.sh "$build" | diff debian/liblangevin0.symbols - >"$work/diff" || {
    head -n 20 "$work/diff"
    fail "the exports changed; run:  sh tools/symbols.sh build > debian/liblangevin0.symbols  (docs/embedding.md, Versions)"
}
pass
head -n 1 debian/changelog | grep -qF "($version)" || fail "debian/changelog is about another version than $version"
grep -o '<b id="[a-z0-9_]*' "$build/api.html" | cut -d'"' -f2 | sort | diff "$work/marked" - >"$work/diff" || {
    head -n 20 "$work/diff"
    fail "the functions of the headers (<) and those of api.html (>) differ"
}
pass
nm -u "$build"/CMakeFiles/langevin_cli.dir/cli/*.o | awk '$2 ~ /^lgv_/ {print $2}' | sort -u >"$work/used"
[ -s "$work/used" ] || fail "no object files of the program in $build"
comm -23 "$work/used" "$work/exported" | grep . && fail "the program uses these, which are not exported"
pass

echo "$checks checks passed, $skipped skipped"
