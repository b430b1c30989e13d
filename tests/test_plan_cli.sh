#!/bin/bash
# langevin plan: what it tells, what it refuses, and that it is true: the process that then runs the plan grows by
# as much memory as was told.
# Usage: test_plan_cli.sh BUILD_DIRECTORY.
set -eu
. "$(dirname "$0")/support/cli.sh"
configs=$source_dir/bench/configs

refuse_only() { # as refuse, and nothing else is printed
    refuse "$@"
    shift 2
    [ ! -s out.txt ] || fail "langevin $*: it printed something besides the refusal"
}
value() { sed -n "s/.*\"$1\": *\([0-9][0-9.e+-]*\).*/\1/p" out.txt | head -n 1; } # of a key in out.txt
holds() { awk "BEGIN { exit !($1) }" || fail "$2: $1 does not hold"; pass; }

network tiny.json "32, 64"
mkdir folder
cp tiny.json folder/config.json

# ---- what it tells ----
run 0 plan --help
says "^Usage: langevin plan MODEL --mode train\|sample"
says "^  langevin plan unet-64 --mode train --batch-size 16"
for model in tiny.json folder unet-32 UNET_32; do
    run 0 plan $model --mode sample --threads 1
    says "sampling step, .* batch 1, cpu"
    says "store +.* in 1 set of .*\(weights\)"
    says "packed weights +"
    says "arena +.*largest workspace"
    says "total +"
    says "recomputed +nothing"
    says "arithmetic +.* FLOP"
    says "expected +[0-9.e-]+ s a step"
    says "floor +[0-9.e-]+ s .*GFLOP/s and .*GB/s"
done
run 0 plan tiny.json --mode train --batch_size=4 --resolution 32 --threads 1
says "training step, 32x32, batch 4"
says "in 5 sets of .*two moments"
run 0 plan unet-32 --mode train --channels 1 --batch-size 16 --json --threads 1
total=$(value total_bytes)
holds "$total == $(value store_bytes) + $(value packed_bytes) + $(value arena_bytes) + $(value io_bytes)" "the total"
holds "$(value workspace_bytes) < $(value arena_bytes) && $(value flops) > 1e9 && $(value parameters) > 1e6" figures
holds "$(value expected_seconds) > 0 && $(value floor_seconds) > 0 && $(value recomputed) == 0" times
says '"mode": "train"'
says '"batch_size": 16'
# A budget is kept, all included, and bought with recomputation.
budget=$((total * 3 / 4))
run 0 plan unet-32 --mode train --channels 1 --batch-size 16 --json --threads 1 --memory-budget $budget
holds "$(value total_bytes) <= $budget && $(value recomputed) > 0" "the budget"
# Activations of two bytes.
run 0 plan unet-32 --mode train --channels 1 --batch-size 64 --json --threads 1
arena=$(value arena_bytes)
run 0 plan unet-32 --mode train --channels 1 --batch-size 64 --json --threads 1 --mixed-precision bf16
says '"mixed_precision": "bf16"'
holds "$(value arena_bytes) < 0.7 * $arena" "bf16"
# Guidance takes two rows of the network for each picture, and hardly anything beside.
run 0 plan dit-s-8 --mode sample --batch-size 3 --threads 1
says "guidance +two rows of the network for each picture, 6 in all"
run 0 plan dit-s-8 --mode sample --batch-size 3 --threads 1 --json
says '"rows": 6'
guided=$(value flops) total=$(value total_bytes)
run 0 plan dit-s-8 --mode sample --batch-size 6 --threads 1 --json --guidance-scale 1
says '"rows": 6'
holds "$guided >= $(value flops) && $guided < 1.001 * $(value flops)" "arithmetic of guidance"
holds "$total > 0.99 * $(value total_bytes) && $total < 1.01 * $(value total_bytes)" "memory of guidance"
run 0 plan unet-32 --mode sample --threads 1 --guidance-scale 1
! grep -q guidance out.txt || fail "guidance of a network without classes"
# A classifier that guides adds its weights and a pass forward and backward.
idx data 8
{ printf '\0\0\10\1\0\0\0\10'; for i in $(seq 8); do printf "\\$(printf %o $((i % 2)))"; done; } >data/train-labels-idx1-ubyte
for kind in "" --noisy; do
    run 0 train --task classifier $kind --data data --model tiny.json --output guide$kind --max-train-steps 1 --train-batch-size 2 --lr-warmup-steps 0 --threads 1
done
run 0 plan tiny.json --mode sample --batch-size 4 --threads 1 --json
alone=$(value total_bytes) store=$(value store_bytes) flops=$(value flops)
run 0 plan tiny.json --mode sample --batch-size 4 --threads 1 --json --classifier guide--noisy
holds "$(value total_bytes) > $alone && $(value store_bytes) > $store && $(value flops) > 1.5 * $flops" "a classifier"
says '"classifier": "guide--noisy"'
says '"sets": 2'
run 0 plan tiny.json --mode sample --threads 1 --classifier guide--noisy
says "store +.*weights of the network and of the classifier"
says "classifier +guide--noisy, forward and backward, is part of all figures"
# A network for which this machine is far too small takes no memory to plan.
run 0 plan $configs/article_unet128.json --mode train --batch-size 10000 --json --threads 1
holds "$(value total_bytes) > 1e12" "a huge plan"

# ---- more than 2 GiB of activations: cheap nodes are recomputed unless a budget says otherwise ----
run 0 plan "$configs/ddpm_cifar10.json" --mode train --batch-size 128 --json
thin=$(value arena_bytes)
holds "$(value recomputed) > 0" "nodes recomputed by default"
run 0 plan "$configs/ddpm_cifar10.json" --mode train --batch-size 128 --memory-budget 9G --json
holds "$(value recomputed) == 0" "nodes recomputed within an ample budget"
holds "$thin < 0.7 * $(value arena_bytes)" "arena with and without recomputing"

# ---- what it refuses ----
refuse_only 2 "which network" plan --mode train
refuse_only 2 "--mode train or --mode sample" plan unet-32
refuse_only 2 "guidance-scale belongs to --mode sample" plan unet-32 --mode train --guidance-scale 3
refuse_only 2 "classifier belongs to --mode sample" plan unet-32 --mode train --classifier guide--noisy
refuse_only 2 "guidance-scale must be more than 0" plan dit-s-8 --mode sample --guidance-scale 0
refuse_only 2 "memory-budget plans the network alone" plan tiny.json --mode sample --classifier guide--noisy --memory-budget 2G
refuse_only 1 "nothing to guide" plan unet-32 --mode sample --guidance-scale 3
refuse_only 1 "no classifier of noisy pictures" plan tiny.json --mode sample --classifier guide
refuse_only 1 "takes pictures of 1 channels, 'unet-32' draws them with 3" plan unet-32 --mode sample --classifier guide--noisy
refuse_only 1 "16x16 only, not of 32x32" plan tiny.json --mode sample --resolution 32 --classifier guide--noisy
refuse_only 2 "'both'" plan unet-32 --mode both
refuse_only 2 "one argument too many" plan unet-32 unet-64 --mode train
refuse_only 2 "did you mean '--memory-budget'" plan unet-32 --mode train --memory-budgt 2G
refuse_only 2 "at least 1" plan unet-32 --mode train --batch-size -1
refuse_only 2 "not a number" plan unet-32 --mode train --batch-size four
refuse_only 2 "--memory-budget must be a size" plan unet-32 --mode train --memory-budget much
refuse_only 2 "mixed-precision.*fp16" plan unet-32 --mode train --mixed-precision fp16
refuse_only 1 "unet-33" plan unet-33 --mode train
refuse_only 1 "17" plan unet-32 --mode train --resolution 17
refuse_only 1 "memory budget of 9 MiB is too small: weights, gradients" plan unet-32 --mode train --memory-budget 9M
refuse_only 1 "memory budget of .* too small: with everything recomputed" \
    plan unet-32 --mode train --batch-size 512 --memory-budget 400M
refuse_only 1 "'cpu:quantum'" plan unet-32 --mode train --device cpu:quantum
echo '{' >broken.json
refuse_only 1 "broken.json" plan broken.json --mode train

# ---- that it is true: within 5 % + 32 MiB of what the process grows by ----
if ldd "$langevin" | grep -q libasan; then
    echo "skipped: under the address sanitizer memory is not what was asked for"
else
    for case in "train 2" "sample 8"; do
        set -- $case
        run 0 plan $configs/ddpm_cifar10.json --mode $1 --batch-size $2 --json
        told=$(value total_bytes)
        holds "$told >= 200e6" "$1, the plan is large enough to judge"
        run 0 bench $configs/ddpm_cifar10.json --mode $1 --batch-size $2 --rounds 1 --json
        grown=$(value resident_bytes)
        echo "ddpm_cifar10, $1, batch $2: told $((told >> 20)) MiB, grown by $((grown >> 20)) MiB"
        holds "$(value planned_bytes) == $told" "plan and bench agree"
        holds "$grown <= 1.05 * $told + 33554432 && $grown >= 0.95 * $told - 33554432" "$1, memory"
    done
fi
echo "$checks checks"
