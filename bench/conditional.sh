#!/bin/sh
# conditional.sh - how well guided samples show the class they are asked for: a class-conditional U-Net and a classifier
# are trained on Fashion-MNIST (or DATA); samples of each class for several guidance scales, samplers and steps; the share
# that the classifier takes for their class, and the Frechet distance to the test set in its features.
# Usage: bench/conditional.sh LANGEVIN DATA OUTPUT [STEPS [SAMPLES]]
# STEPS of training (20000), SAMPLES for each figure (1000). Steps that are done are not done again.
set -eu
langevin=$1
data=$2
output=$3
steps=${4:-20000}
samples=${5:-1000}
mkdir -p "$output"

[ -e "$output/classifier/unet/config.json" ] ||
    "$langevin" train --task classifier --data "$data" --output "$output/classifier"
"$langevin" train --data "$data" --output "$output/model" --class-conditional --max-train-steps "$steps" \
    --resume-from-checkpoint latest
"$langevin" sample "$output/model" --output "$output/classes-$(date +%s).png" --class all --num-images 100

figure() { # SAMPLER STEPS SCALE
    json=$output/$1-$2-$3.json
    [ -s "$json" ] || "$langevin" eval "$output/model" --data "$data" --split validation --features "$output/classifier" \
        --num-images "$samples" --batch-size 50 --sampler "$1" --num-inference-steps "$2" --guidance-scale "$3" \
        --json >"$json.part"
    [ -s "$json" ] || mv "$json.part" "$json"
    value() { tr -d '\n' <"$json" | sed -n "s/.*\"$1\": *{ *\"value\": *\([-0-9.e+]*\).*/\1/p"; }
    printf '| %s | %s | %s | %.1f %% | %.4g |\n' "$1" "$2" "$3" \
        "$(value class_agreement | awk '{print 100 * $1}')" "$(value frechet_distance)"
}

echo "| sampler | steps | guidance | class agreement | Frechet distance |"
echo "|---|---|---|---|---|"
for scale in 1 1.5 2 3 5; do
    for count in 10 20 50; do figure ddim $count $scale; done
    for count in 10 20; do figure dpmpp_2m $count $scale; done
done
