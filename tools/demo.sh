#!/bin/sh
# The main job on real pictures: train a U-Net on Fashion-MNIST for a few minutes, then sample from it.
set -eu
langevin=$1
out=$2
data=${LANGEVIN_DEMO_DATA:-/usr/share/datasets/fashion-mnist}
steps=${LANGEVIN_DEMO_STEPS:-2200}

"$langevin" train --data "$data" --output "$out/model" --model "$(dirname "$0")/../bench/configs/demo.json" \
    --train-batch-size 32 --learning-rate 2e-3 --lr-scheduler cosine --lr-warmup-steps 100 --snr-gamma 5 \
    --max-train-steps "$steps" --seed 0 --overwrite
rm -f "$out/samples.png"
"$langevin" sample "$out/model" --output "$out/samples.png" --num-images 64 --num-inference-steps 50 --seed 0
echo
echo "Samples:     $out/samples.png"
echo "Loss curve:  $out/model/loss.png"
echo "More:        $langevin sample $out/model --output more.png --num-images 16 --seed 100"
