#!/bin/bash
# Pictures that sampling begins with, from the command line: changed, painted in, enlarged, filled; and what is refused.
# Usage: test_conditions.sh BUILD_DIRECTORY
set -eu
. "$(dirname "$0")/support/cli.sh"

one="--threads 1"
idx data 30
least_network tiny.json
train="train --data data --max-train-steps 1 --train-batch-size 4 --num-train-timesteps 20 $one"
sample="sample $one --no-metadata --num-inference-steps 4"

# ---- any model ----
run 0 $train --model tiny.json --output plain
run 0 $sample plain --output base.png --seed 5
run 0 $sample plain --output white.png --seed 6 # stands for a mask with something white
run 0 $sample plain --output changed.png --init-image base.png --strength 0.5
says "ddim|dpmpp_2m, 2 steps"
run 0 $sample plain --output again.png --init-image base.png --strength 0.5 --batch-size 1
same changed.png again.png
run 0 $sample plain --output many --init-image base.png --num-images 3
there many/000002.png
run 0 $sample plain --output painted.png --init-image base.png --mask white.png --sampler ddim
run 0 $sample plain --output repainted.png --init-image base.png --mask white.png --jump-length 1 --jump-n-sample 2
says "ddpm, 7 steps" # four, and three of them once more
run 0 $sample plain --output first.png --init-image base.png --mask white.png --sampler ddim --strength 0.5
run 0 sample $one plain --output respaced.png --timestep-respacing 2,3 --sampler ddim
says "ddim, 5 steps"
refuse 2 "mask of which picture" $sample plain --output x.png --mask white.png
refuse 2 "belong to a picture" $sample plain --output x.png --strength 0.5
refuse 2 "above 0 and at most 1" $sample plain --output x.png --init-image base.png --strength 1.5
refuse 2 "belong to --mask" $sample plain --output x.png --init-image base.png --jump-length 2
refuse 2 "at least 1" $sample plain --output x.png --init-image base.png --mask white.png --jump-length 0
refuse 1 "earlier steps" $sample plain --output x.png --init-image base.png --mask white.png --sampler dpmpp_2m --jump-length 1
refuse 1 "nowhere.png" $sample plain --output x.png --init-image nowhere.png
refuse 2 "exclude each other" $sample plain --output x.png --timestep-respacing 2
refuse 1 "makes no chain" sample $one plain --output x.png --timestep-respacing two
refuse 2 "not --sampler ddim_inverse" $sample plain --output x.png --init-image base.png --strength 0.5 --sampler ddim_inverse

# ---- models for it ----
run 0 $train --resolution 32 --condition super-resolution --condition-scale 2 --output enlarger
grep -q '"_condition": "super-resolution"' enlarger/unet/config.json || fail "config.json does not name the condition"
run 0 $sample enlarger --output large.png --init-image base.png
says "32x32"
run 0 $sample enlarger --output larger.png --init-image base.png --resolution 64
says "64x64"
refuse 1 "give the picture with --init-image" $sample enlarger --output x.png
refuse 1 "no meaning" $sample enlarger --output x.png --init-image base.png --mask white.png
refuse 1 "multiple" $sample enlarger --output x.png --init-image base.png --resolution 33
run 0 $train --resolution 32 --condition inpainting --output filler
run 0 $sample filler --output filled.png --init-image base.png --mask white.png
refuse 1 "what is painted" $sample filler --output x.png --init-image base.png
refuse 1 "not offered" eval filler --data data --bpd --num-images 1 --timestep-respacing 2 $one
refuse 2 "no image condition" $train --condition colour --output x
refuse 2 "belongs to --condition super-resolution" $train --condition-scale 2 --output x
refuse 2 "2 to 64" $train --condition super-resolution --condition-scale 1 --output x
refuse 1 "needs a preset" $train --model tiny.json --condition inpainting --output x
run 0 train --output filler --resume-from-checkpoint latest --max-train-steps 2 $one
run 0 info filler

echo "$checks checks passed"
