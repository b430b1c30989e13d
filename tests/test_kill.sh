#!/bin/bash
# Training that is killed again and again, at random moments, by SIGKILL and by SIGTERM: no checkpoint is lost or
# damaged, the model in the output folder is always whole, and what comes out has the bits of an unbroken run.
# Usage: test_kill.sh BUILD_DIRECTORY [KILLS [SEED]]: so many of each signal.
set -eu
. "$(dirname "$0")/support/cli.sh"
kills=${2:-5}
seed=${3:-$$}
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT
RANDOM=$seed

fail() { # TEXT
    echo "FAILED (seed $seed): $1"
    tail -n 5 out.txt err.txt
    exit 1
}

idx data 40
least_network tiny.json
train="train --data data --model tiny.json --train-batch-size 4 --lr-warmup-steps 0 --learning-rate 1e-3
    --lr-schedule-steps 1000 --checkpointing-steps 2 --threads 1"

newest() { # FOLDER: step of its newest checkpoint, 0 for none
    local n=0 name
    for name in "$1"/checkpoint-*; do
        name=${name##*-}
        case $name in *[!0-9]*) ;; *) [ "$name" -le "$n" ] || n=$name ;; esac
    done
    echo "$n"
}
# Every file that trainer.json lists, by its SHA-256.
sums() { sed -n 's/^ *"\([a-z_/]*\.[a-z]*\)": "\([0-9a-f]\{64\}\)",\{0,1\}$/\2  \1/p' "$1/trainer.json"; }
check_checkpoint() { # FOLDER
    [ "$(sums "$1" | wc -l)" = 7 ] || fail "$1/trainer.json does not list 7 files"
    (cd "$1" && sums . | sha256sum --check --quiet --strict) || fail "$1 is damaged"
}
model=diffusion_pytorch_model.safetensors
check_output() { # OUTPUT: its checkpoints, and its model, which is that of one of them
    local folder known=
    for folder in "$1"/checkpoint-*; do
        [ -d "$folder" ] || return 0 # none yet
        check_checkpoint "$folder"
        ! cmp -s "$1/unet/$model" "$folder/unet_ema/$model" || known=yes
    done
    # Killed before the first refresh there is no model; after a refresh, before the rotation, all are there.
    [ -n "$known" ] || [ ! -e "$1/unet/$model" ] || fail "the model in $1 is that of no checkpoint"
}

before=0
early=0
starts=0
signals=($(for i in $(seq "$kills"); do echo KILL TERM; done))
for signal in "${signals[@]}"; do
    "$langevin" $train --output broken --max-train-steps 1000000 --resume-from-checkpoint latest >out.txt 2>err.txt &
    pid=$!
    starts=$((starts + 1))
    # From right after the start to a dozen steps later.
    sleep "0.$(printf %03d $((RANDOM % 400)))"
    kill -$signal $pid
    code=0
    wait $pid 2>/dev/null || code=$?
    pid=
    if [ $signal = TERM ]; then
        [ $code = 143 ] || fail "SIGTERM: exit code $code, expected 143"
        if grep -q '^go on with: langevin train --output broken --resume-from-checkpoint latest' out.txt; then
            at=$(newest broken)
            grep -q "saved as broken/checkpoint-$at$" out.txt || fail "SIGTERM: does not say what it saved"
            [ "$(grep -c '"loss"' broken/log.jsonl)" = "$at" ] || fail "SIGTERM: a step was lost"
        else
            [ ! -s out.txt ] || fail "SIGTERM: no command to go on with"
            early=$((early + 1)) # before the program had begun to listen
        fi
    else
        [ $code = 137 ] || fail "SIGKILL: exit code $code, expected 137"
    fi
    after=$(newest broken)
    [ "$after" -ge "$before" ] || fail "checkpoint-$before was there, now the newest is $after"
    before=$after
    check_output broken
done

last=$((before + 3))
"$langevin" $train --output broken --max-train-steps $last --resume-from-checkpoint latest >out.txt 2>err.txt ||
    fail "the run does not go on"
! grep -q "bit-exact" out.txt || fail "a resumed run says 'not bit-exact'"
[ -z "$(find broken -name '*.tmp-*')" ] || fail "leftovers: $(find broken -name '*.tmp-*')"
"$langevin" $train --output whole --max-train-steps $last >out.txt 2>err.txt || fail "the unbroken run fails"
for file in unet/$model unet_ema/$model optimizer.safetensors; do
    cmp "broken/checkpoint-$last/$file" "whole/checkpoint-$last/$file" || fail "$file differs"
done
cmp broken/unet/$model whole/unet/$model || fail "the models differ"
losses() { sed -n 's/.*"step": \([0-9]*\), "loss": \([^,]*\),.*/\1 \2/p' "$1/log.jsonl"; }
[ "$(losses whole | wc -l)" = $last ] || fail "the unbroken log has not one line for each step"
losses whole >a.txt
losses broken >b.txt
cmp a.txt b.txt || fail "the logs differ"
echo "$kills SIGKILL and $kills SIGTERM ($early before the start), $last steps in $starts runs: no checkpoint lost," \
    "none damaged, the bits of an unbroken run (seed $seed)"
