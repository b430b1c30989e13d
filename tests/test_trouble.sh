#!/bin/bash
# What goes wrong around a run: the disk fills up, the folder is read-only or goes away, the pictures vanish or are
# cut, another trainer holds the folder, memory is short. Each gives a clear sentence and loses nothing.
# Usage: test_trouble.sh BUILD_DIRECTORY
set -eu
. "$(dirname "$0")/support/cli.sh"
disk=$work/disk
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; umount "$disk" 2>/dev/null || true; rm -rf "$work"' EXIT

says_in() { grep -Eq -- "$1" "$2" || fail "$2 does not say '$1'"; pass; }
start() { # COMMAND...: in the background
    "$langevin" "$@" >out.txt 2>err.txt &
    pid=$!
}
await() { # WHAT COMMAND...: until it succeeds, a minute at most
    local what=$1
    shift
    for _ in $(seq 3000); do
        ! "$@" >/dev/null 2>&1 || return 0
        kill -0 $pid 2>/dev/null || fail "the run ended before $what"
        sleep 0.02
    done
    fail "no $what within a minute"
}
end() { # CODE: of the process in the background
    local code=0
    wait $pid 2>/dev/null || code=$?
    pid=
    [ "$code" = "$1" ] || fail "exit code $code, expected $1"
    pass
}
steps() { [ "$(grep -c '"loss"' "$1/log.jsonl")" -ge "$2" ]; }
model=diffusion_pytorch_model.safetensors

idx data 40
least_network tiny.json
base="train --model tiny.json --train-batch-size 2 --lr-warmup-steps 0 --threads 1"
train="$base --data data"
long="--max-train-steps 1000000 --checkpointing-steps 20"

# ---- two trainers ----
start $train --output held $long
await "the first checkpoint" test -e held/checkpoint-20
holder=$pid
pid=
for options in "" "--overwrite" "--resume-from-checkpoint latest"; do
    code=0
    "$langevin" $train --output held $options >out.txt 2>err.txt || code=$?
    [ $code = 1 ] || fail "a second trainer: exit code $code"
    [ -z "$options" ] || says_in "another training run is writing to 'held' \(process $holder on [^)]*\)" err.txt
done
pid=$holder
kill -0 $pid || fail "the second trainer has ended the first"
kill -KILL $pid
end 137
at=$(ls -d held/checkpoint-* | sed 's/.*-//' | sort -n | tail -1)
run 0 $train --output held --resume-from-checkpoint latest --max-train-steps $((at + 1)) # no stale lock

# ---- the output folder goes away ----
start $train --output lost $long
await "the first checkpoint" test -e lost/checkpoint-20
rm -rf lost || rm -rf lost || true
await "a new checkpoint" sh -c 'ls lost/checkpoint-*/trainer.json'
kill -TERM $pid
end 143
says_in "^go on with: " out.txt
at=$(sed -n 's/.*saved as lost.checkpoint-//p' out.txt)
run 0 $train --output lost --resume-from-checkpoint latest --max-train-steps $((at + 1))
says_in "going on from lost/checkpoint-$at " out.txt

# ---- the pictures go away ----
run 0 sample lost --output pictures --num-images 300 --num-inference-steps 1 --batch-size 50 --threads 1
pictures="$base --data pictures --max-train-steps 120 --checkpointing-steps 1000"
run 0 $pictures --output calm
start $pictures --output gone
await "step 3" steps gone 3
mv pictures elsewhere
end 1
[ "$(wc -l <err.txt)" = 1 ] || fail "not one sentence"
says_in "pictures/[0-9]*.png.*No such file.*the run up to step [0-9]+ is saved as 'gone/checkpoint-[0-9]+'" err.txt
mv elsewhere pictures
run 0 $pictures --output gone --resume-from-checkpoint latest
cmp gone/checkpoint-120/unet/$model calm/checkpoint-120/unet/$model || fail "the bits are others"
pass
cp -r pictures short
start $pictures --data short --output cut
await "step 3" steps cut 3
truncate -s 50 short/*.png
end 0
says_in "note: picture skipped: .*short/[0-9]*.png" out.txt
run 1 train --output cut --resume-from-checkpoint latest --max-train-steps 121
says_in "allow-data-change|no picture|decoded" err.txt

# ---- the disk ----
mkdir "$disk"
if mount -t tmpfs -o size=6m none "$disk" 2>/dev/null; then
    start $train --output "$disk/run" $long
    await "the first checkpoint" test -e "$disk/run/checkpoint-20"
    dd if=/dev/zero of="$disk/filler" bs=64k >/dev/null 2>&1 || true
    await "the note" grep -q "No space left on device; training goes on and tries again every minute" out.txt
    at=$(ls -d "$disk"/run/checkpoint-* | sed 's/.*-//' | sort -n | tail -1)
    await "further steps" steps "$disk/run" 1
    kill -0 $pid || fail "a full disk ended the run"
    whole "$disk/run/checkpoint-$at" >before.txt
    rm "$disk/filler"
    kill -TERM $pid
    end 143
    says_in "saved as $disk/run/checkpoint-" out.txt
    whole "$disk/run/checkpoint-$at" >after.txt 2>/dev/null || true
    [ ! -e "$disk/run/checkpoint-$at" ] || cmp before.txt after.txt || fail "an older checkpoint has changed"
    # It stays full: the checkpoints before are all there is, and they are whole.
    start $train --output "$disk/run" --resume-from-checkpoint latest $long
    await "a new checkpoint" grep -q ^saved out.txt
    dd if=/dev/zero of="$disk/filler" bs=64k >/dev/null 2>&1 || true
    await "the note" grep -q "tries again every minute" out.txt
    kill -TERM $pid
    end 1
    says_in "checkpoint [0-9]+ was not saved: .*No space left on device" err.txt
    rm "$disk/filler"
    [ -z "$(find "$disk/run" -name '*.tmp-*')" ] || fail "leftovers of a failed save"
    at=$(ls -d "$disk"/run/checkpoint-* | sed 's/.*-//' | sort -n | tail -1)
    run 0 $train --output "$disk/run" --resume-from-checkpoint latest --max-train-steps $((at + 1))
    [ -z "$(grep -v '^{.*}$' "$disk/run/log.jsonl")" ] || fail "half a line is left in the log"
    pass
    mount -o remount,ro "$disk"
    run 1 $train --output "$disk/run" --resume-from-checkpoint latest --max-train-steps $((at + 2))
    says_in "cannot write to '$disk/run': Read-only file system" err.txt
    run 1 $train --output "$disk/other" --max-train-steps 2
    says_in "cannot make the folder '$disk/other': Read-only file system" err.txt
    run 1 sample lost --output "$disk/picture.png" --num-inference-steps 1 --threads 1
    says_in "Read-only file system" err.txt
    umount "$disk"
else
    skip "a full and a read-only disk: mounting a small one is not permitted here"
fi

# ---- memory ----
if ! grep -aq __asan_init "$langevin"; then # which itself wants terabytes of addresses
    code=0
    (ulimit -v 600000 && exec "$langevin" train --data data --output big --model unet-128 --resolution 64 --threads 1) \
        >out.txt 2>err.txt || code=$?
    [ $code = 1 ] || fail "too little memory: exit code $code"
    [ "$(wc -l <err.txt)" = 1 ] || fail "too little memory: not one sentence"
    says_in "memory" err.txt
fi

echo "$checks checks passed, $skipped parts skipped"
