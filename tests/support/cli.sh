# cli.sh - what the tests of the program share: an own folder to work in, runs, refusals and their counting. Read by
# scripts that are called with BUILD_DIRECTORY first:  . "$(dirname "$0")/support/cli.sh"
# Sets langevin (the program), source_dir (the tree) and work (the folder, where the script then is).
langevin=$(cd "$1" && pwd)/langevin
[ -x "$langevin" ] || { echo "skipped: there is no program in $1"; exit 77; }
source_dir=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# Under the address sanitizer: what other libraries leave behind at exit is not ours to judge.
printf 'leak:libfontconfig\nleak:libpopt\n' >lsan.txt
export LSAN_OPTIONS="suppressions=$work/lsan.txt:print_suppressions=0"
checks=0
skipped=0

fail() { # TEXT
    echo "FAILED: $1"
    echo "--- stdout"; tail -n 30 out.txt
    echo "--- stderr"; tail -n 20 err.txt
    exit 1
}
pass() { checks=$((checks + 1)); }
skip() { echo "skipped: $1"; skipped=$((skipped + 1)); }

run() { # CODE COMMAND...: what it prints is left in out.txt and err.txt
    local want=$1 code=0
    shift
    "$langevin" "$@" >out.txt 2>err.txt || code=$?
    [ "$code" = "$want" ] || fail "langevin $*: exit code $code, expected $want"
    pass
}
# A refusal: the exit code, one line on stderr, and that line says this (an extended regular expression).
refuse() { # CODE PATTERN COMMAND...
    local code=$1 pattern=$2
    shift 2
    run "$code" "$@"
    [ "$(wc -l <err.txt)" = 1 ] || fail "langevin $*: stderr is not one line"
    grep -Eq -- "$pattern" err.txt || fail "langevin $*: stderr does not say '$pattern'"
    pass
}
says() { grep -Eq -- "$1" out.txt || fail "stdout does not say '$1'"; pass; }
same() { cmp -s "$1" "$2" || fail "$1 and $2 differ"; pass; }
differ() { ! cmp -s "$1" "$2" || fail "$1 and $2 are equal"; pass; }
there() { [ -e "$1" ] || fail "$1 is missing"; pass; }
gone() { [ ! -e "$1" ] || fail "$1 is there"; pass; }
whole() { (cd "$1" && find . -type f -exec sha256sum {} + | sort); } # a folder's bytes

# idx FOLDER COUNT: an IDX file of COUNT (below 256) grey pictures of 16x16
idx() {
    mkdir -p "$1"
    { printf '\0\0\10\3\0\0\0'; printf "\\$(printf %o "$2")"; printf '\0\0\0\20\0\0\0\20'
      seq 1 100000 | head -c $(($2 * 256)); } >"$1/train-images-idx3-ubyte"
}
network() { # FILE CHANNELS: two levels, such as "8, 16"
    cat >"$1" <<END
{"_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
 "block_out_channels": [$2], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
 "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "attention_head_dim": 8}
END
}
least_network() { # FILE: one level
    cat >"$1" <<'END'
{"_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
 "block_out_channels": [8], "down_block_types": ["AttnDownBlock2D"], "up_block_types": ["UpBlock2D"],
 "norm_num_groups": 4, "attention_head_dim": 8}
END
}
