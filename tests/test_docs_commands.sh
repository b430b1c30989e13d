#!/usr/bin/env bash
# Every command that README.md and docs/ show is run, page by page, in a folder of its own:
#   test_docs_commands.sh BUILD [long]
# A command is a line of a code block (indented, or fenced as sh or console) that begins with a program's name. A block
# that cannot run here is marked by the line before it, and counted:
#     <!-- not run: it installs packages -->
#     <!-- run in test-long: takes ten minutes -->
# To be quick, "langevin" here is a wrapper that adds --max-train-steps 2 and the like (below), and the folder has small
# things under the names that the pages use: pictures, model, ref.safetensors, and MODEL, DATA, OUTPUT ...
set -u
build=$(cd "$1" && pwd)
long=${2:-}
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Under the address sanitizer: what other libraries leave behind at exit is not ours to judge.
printf 'leak:libfontconfig\nleak:libpopt\n' >"$work/lsan.txt"
export LSAN_OPTIONS="suppressions=$work/lsan.txt:print_suppressions=0"

# page -> "line, mark, command" for every command, continued lines joined.
commands_of() {
    awk '
    function flush_command() {
        if (command != "") printf "%d\037%s\037%s\n", at, mark, command
        command = ""
    }
    /^ *<!-- (not run|run in test-long): .* -->$/ {
        flush_command(); mark = ""; inside = 0
        next_mark = $0
        sub(/^ *<!-- /, "", next_mark); sub(/ -->$/, "", next_mark)
        next
    }
    /^ *```/ {
        flush_command()
        if (fenced) { fenced = 0; shell = 0; mark = ""; next }
        fenced = 1; shell = ($0 ~ /```(sh|bash|console|shell)$/); mark = next_mark; next_mark = ""
        next
    }
    { code = fenced ? shell : ($0 ~ /^    /) }
    !fenced && !code && NF { flush_command(); mark = ""; inside = 0; if (next_mark != "") next_mark = "" }
    !code { next }
    { if (!fenced && !inside) { inside = 1; mark = next_mark; next_mark = "" } }
    {
        text = $0
        sub(/^ */, "", text); sub(/^\$ /, "", text)
        if (command != "") { command = command " " text }
        else if (text ~ /^([A-Z_]+=[^ ]+ +)*(\.\/|build\/)?(langevin|make|cmake|ctest|cd|cc|gcc|clang|bash|sh|python3?|apt|apt-get|dpkg|pip|git|pkg-config|man|mkdir|cp|mv|ls|tar|printf|echo|curl|wget|tensorboard|export|source|sudo|train_and_sample|\.\/[a-z_]+)( |$)/) {
            command = text; at = NR
        } else next
        if (command ~ /\\$/) { sub(/ *\\$/, "", command); next }
        flush_command()
    }
    END { flush_command() }' "$1"
}

# The wrapper: the program with the sizes of a test. What stands last wins.
mkdir -p "$work/bin" "$work/things"
cat >"$work/bin/langevin" <<WRAPPER
#!/usr/bin/env bash
real="$build/langevin"
case " \$* " in *" --help "*) exec "\$real" "\$@" ;; esac
more=()
case \${1:-} in
train)
    more=(--max-train-steps 2 --train-batch-size 2)
    case " \$* " in *" --model "* | *" --task "* | *" --condition "* | *" learned_range "*) ;; *) more+=(--model "$work/things/tiny.json") ;; esac
    case " \$* " in *" --resume-from-checkpoint "*) more=(--max-train-steps 4) ;; *) more+=(--overwrite) ;; esac
    args=()
    while [ \$# -gt 0 ]; do # a length in epochs would exclude one in steps
        case \$1 in --num-train-epochs) shift ;; *) args+=("\$1") ;; esac
        shift
    done
    set -- "\${args[@]}"
    ;;
sample) more=(--num-inference-steps 2) ;;
eval)
    more=(--num-images 8 --num-reference 8 --num-inference-steps 2)
    case " \$* " in *" --bpd "*) more=(--num-images 2 --timestep-respacing 4) ;; esac
    ;;
verify) # the reference is of that network
    shift 2
    set -- verify "$root/tests/golden/verify/model" "\$@"
    ;;
esac
exec "\$real" "\$@" "\${more[@]}"
WRAPPER
# "make" alone has nothing to do: the build is there.
printf '#!/bin/sh\n[ $# -eq 0 ] || exec /usr/bin/make "$@"\n' >"$work/bin/make"
chmod +x "$work/bin/langevin" "$work/bin/make"

cd "$work/things" || exit 1
cat >tiny.json <<'TINY'
{"_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 3, "out_channels": 3, "block_out_channels": [16, 16],
 "layers_per_block": 1, "norm_num_groups": 4, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
 "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
TINY
mkdir -p pictures/shirts pictures/shoes docs
i=0
for picture in "$root"/tests/golden/images/{rgb,palette}*.png; do
    i=$((i + 1))
    cp "$picture" pictures/shirts/$i.png
    cp "$picture" pictures/shoes/$i.png
done
"$work/bin/langevin" train --data pictures --output model --resolution 16 >log 2>&1 || {
    cat log >&2
    exit 1
}
cp "$root/tests/golden/verify/reference.safetensors" ref.safetensors
{ # eight features of two numbers
    header='{"features":{"dtype":"F32","shape":[8,2],"data_offsets":[0,64]}}'
    printf '%b' "\\x$(printf %02x ${#header})\\0\\0\\0\\0\\0\\0\\0"
    printf '%s' "$header"
    for high in 3f 40 3e 3d 41 3f 40 3e; do printf '%b' "\\0\\0\\x80\\x$high\\0\\0\\x40\\x$high"; done
} >a.safetensors
cp a.safetensors b.safetensors
cp pictures/shirts/1.png picture.png
cp pictures/shirts/1.png small.png
cp pictures/shirts/2.png mask.png
cp -r pictures paintings
cp -r pictures photos
cp -r pictures sketches
ln -s model MODEL
ln -s model OUTPUT
ln -s model DIR
ln -s pictures DATA
ln -s pictures PATH
ln -s pictures paintings
ln -s pictures photos
ln -s pictures sketches
cp -r "$root/tests/golden/webdataset" shards
ln -s ref.safetensors FILE.safetensors
ln -s "$root/bench" bench
ln -s "$root/tests" tests
ln -s "$root/tools" tools
ln -s "$root/models" models
ln -s "$build" build

ran=0 skipped=0 bad=0
for page in ${DOCS_PAGES:-"$root"/README.md "$root"/docs/*.md}; do # DOCS_PAGES: only these
    folder=$work/$(basename "$page" .md)
    started=$SECONDS
    while IFS=$'\037' read -r line mark command; do
        case $mark in
        "not run: "*) skipped=$((skipped + 1)) && echo "${page#"$root"/}:$line: $mark" && continue ;;
        "run in test-long: "*) [ "$long" ] || { skipped=$((skipped + 1)) && continue; } ;;
        *) [ ! "$long" ] || continue ;;
        esac
        [ -d "$folder" ] || cp -r "$work/things" "$folder"
        ran=$((ran + 1))
        [ ! "${DOCS_VERBOSE:-}" ] || echo "${page#"$root"/}:$line: $command"
        if ! (cd "$folder" && HOME=$folder PATH="$work/bin:$PATH" timeout "${DOCS_TIMEOUT:-60}" bash -e -o pipefail -c "$command") \
            >"$work/log" 2>&1 </dev/null; then
            echo "${page#"$root"/}:$line: failed: $command" >&2
            tail -n 4 "$work/log" >&2
            bad=1
        fi
    done < <(commands_of "$page" | sed -E 's/\x1fbuild\/langevin /\x1flangevin /')
    rm -rf "$folder"
    [ $((SECONDS - started)) -lt 5 ] || echo "${page#"$root"/}: $((SECONDS - started)) s"
done
echo "$ran commands run, $skipped not"
exit $bad
