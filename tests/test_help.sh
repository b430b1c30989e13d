#!/bin/bash
# Help, manual pages and completion tell the same: what the option tables say.
# Usage: test_help.sh BUILD_DIRECTORY
set -eu
build=$(cd "$1" && pwd)
langevin=$build/langevin
source_dir=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
printf 'leak:libpopt\n' >lsan.txt
export LSAN_OPTIONS="suppressions=$work/lsan.txt:print_suppressions=0"
PATH=$build:$PATH
checks=0
skipped=0
fail() {
    echo "FAILED: $1"
    exit 1
}
pass() { checks=$((checks + 1)); }
skip() { echo "skipped: $1"; skipped=$((skipped + 1)); }

commands=$(langevin --help | sed -n 's/^  \([a-z]*\)  *[a-z].*/\1/p' | grep -v '^langevin$')
[ "$(echo "$commands" | wc -w)" -ge 6 ] || fail "--help lists no commands"

# ---- help and manual pages ----
page_is_clean() { # FILE
    if command -v groff >/dev/null; then
        groff -man -Tutf8 -ww -z "$1" 2>warnings || true
        [ ! -s warnings ] || { cat warnings; fail "$1: groff complains"; }
    fi
    pass
}
command -v groff >/dev/null || skip "there is no groff to read the manual pages"
sh "$source_dir/tools/manual.sh" "$langevin" man
page_is_clean man/langevin.1
for command in $commands; do
    langevin "$command" --help >by-option
    langevin help "$command" >by-command
    cmp -s by-option by-command || fail "help $command and $command --help differ"
    page=man/langevin-$command.1
    [ -s "$page" ] || fail "no manual page of $command"
    page_is_clean "$page"
    grep -oE -- '--[a-z0-9-]+' by-option | sort -u >said
    sed 's/\\-/-/g' "$page" | grep -oE -- '--[a-z0-9-]+' | sort -u >written
    diff said written || fail "the options of $command --help (<) and of its manual page (>) differ"
    langevin help --complete "$command" -- | sort -u >offered
    grep -oE '^ +(-[a-z], )?--[a-z0-9-]+' by-option | grep -oE -- '--[a-z0-9-]+' | sort -u >listed
    diff listed offered || fail "the options of $command --help (<) and those completed (>) differ"
    grep -q "langevin.-$command (1)" man/langevin.1 || fail "langevin.1 does not name $command"
    pass
done

# ---- completion, as bash calls it ----
. "$source_dir/cli/langevin.bash"
complete_line() { # LINE: what is offered for its last word, in $offered. bash also splits words at = and :
    read -ra COMP_WORDS <<<"$(echo "$1" | sed -E 's/([=:])/ \1 /g')"
    [[ $1 != *" " ]] || COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _langevin
    offered=$(printf '%s\n' "${COMPREPLY[@]+"${COMPREPLY[@]}"}" | sort | tr '\n' ' ' | sed 's/ $//')
}
offers() { # LINE WORDS
    complete_line "$1"
    [ "$offered" = "$2" ] || fail "'$1' is completed by '$offered', not by '$2'"
    pass
}
rm -rf man
mkdir -p models pictures
touch models.json model.safetensors
offers "langevin tr" "train"
offers "langevin help ver" "verify"
offers "langevin train --lr-sch" "--lr-schedule-steps --lr-scheduler"
offers "langevin train --lr_scheduler con" "constant constant_with_warmup"
offers "langevin train --lr-scheduler con" "constant constant_with_warmup"
offers "langevin train --lr-scheduler=con" "constant constant_with_warmup"
offers "langevin train --mixed-precision " "bf16 no"
offers "langevin train --mixed-precision=" "bf16 no"
offers "langevin train --output m" "models"
offers "langevin train -o pi" "pictures"
offers "langevin train --data p" "pictures"
offers "langevin train --device cpu:s" "scalar"
offers "langevin train --device=cpu:s" "scalar"
offers "langevin train --device c" "cpu $(langevin help --complete train --device c | grep : | sort | tr '\n' ' ' | sed 's/ $//')"
offers "langevin train --beta-schedule s" "scaled_linear sigmoid squaredcos_cap_v2"
offers "langevin train --prediction-type v" "v_prediction"
offers "langevin train --resume-from-checkpoint l" "latest"
offers "langevin train --rng " "philox torch"
offers "langevin sample --weights " "ema raw"
offers "langevin sample --sampler ddi" "ddim ddim_inverse"
offers "langevin sample mo" "model.safetensors models models.json"
offers "langevin info unet-" "unet-128 unet-32 unet-64"
offers "langevin bench --mode " "sample train"
offers "langevin plan unet-32 --mode t" "train"
offers "langevin train --seed " ""
offers "langevin train --nonsense=x" ""
offers "langevin nonsense x" ""

echo "$checks checks passed, $skipped skipped"
