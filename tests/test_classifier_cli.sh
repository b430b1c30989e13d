#!/bin/bash
# Guidance by a classifier of noisy pictures, from the command line: training it, drawing classes of models with and without
# classes, what is written beside the pictures, and the sentence for each mistake. Usage: test_classifier_cli.sh BUILD_DIRECTORY
set -eu
. "$(dirname "$0")/support/cli.sh"

idx data 60
{ printf '\0\0\10\1\0\0\0\74'; for i in $(seq 60); do printf "\\$(printf %o $((i % 3)))"; done; } >data/train-labels-idx1-ubyte
least_network tiny.json
one="--threads 1"
train="train --data data --train-batch-size 4 --max-train-steps 2 --lr-warmup-steps 0 $one"
run 0 $train --model tiny.json --output plain
run 0 $train --model tiny.json --output classes --class-conditional
run 0 $train --task classifier --noisy --model tiny.json --output noisy
says "langevin sample MODEL --output samples.png --classifier noisy"
run 0 info noisy
says "^  one pass +.* FLOP"
says "^  tells apart +0, 1, 2; in pictures with noise"
run 0 $train --task classifier --model tiny.json --output clean
run 0 $train --task classifier --noisy --model tiny.json --output short --num-train-timesteps 20
run 0 $train --task classifier --noisy --model tiny.json --output cosine --beta-schedule squaredcos_cap_v2
run 0 $train --task classifier --noisy --output large --resolution 32
sample="sample plain --num-inference-steps 3 --classifier noisy $one"

# ---- a model without classes ----
run 0 $sample --output all.png
says "^sampling 3 pictures"
says "^  sampler +ddim, 3 steps"
says "^  class +0, 1, 2"
says "^  classifier +noisy, scale 1"
! grep -q "^  guidance" out.txt || fail "guidance of a model without classes"
there all.png
run 0 $sample --output d --class 2,#0,none --classifier-scale 50
says "^  classifier +noisy, scale 50"
printf 'file_name,label\n000000.png,2\n000001.png,0\n000002.png,\n' | cmp -s - d/metadata.csv || fail "metadata.csv: $(cat d/metadata.csv)"
grep -aq "Class: 2, Classifier: noisy, Classifier scale: 50, Size" d/000000.png || fail "the PNG does not tell"
# A picture is itself alone and in a batch; one of no class is that of the model alone.
run 0 $sample --output e --class 2 --classifier-scale 50 --no-metadata
run 0 $sample --output e --class 1,2,0 --classifier-scale 50 --batch-size 2 --no-metadata
run 0 $sample --output f --class 1,none --no-metadata
run 0 sample plain --num-inference-steps 3 --sampler ddim --output g --num-images 2 $one --no-metadata
same f/000001.png g/000001.png
run 0 $sample --output h --class 1,2 --classifier-scale 50 --no-metadata
run 0 $sample --output i --class 2 --seed 1 --classifier-scale 50 --no-metadata
same h/000001.png i/000000.png
differ h/000001.png g/000001.png
# Every way to choose the steps, and pictures to begin with.
run 0 $sample --output ddpm.png --sampler ddpm --class 1
run 0 sample plain --classifier noisy --output chain.png --timestep-respacing 2,3 --sampler ddpm --class 1 $one
says "ddpm, 5 steps"
run 0 $sample --output part.png --class 1 --guidance-interval 0.3,1
says "classifier +noisy, scale 1, from 0.3 to 1 of the steps"
run 0 $sample --output changed.png --init-image g/000000.png --strength 0.7 --class 1
run 0 $sample --output painted.png --init-image g/000000.png --mask g/000001.png --jump-length 1 --jump-n-sample 2 --class 1
says "sampler +ddpm"
run 0 $sample --output half.png --class 1 --mixed-precision bf16

# ---- a model with classes ----
run 0 sample classes --num-inference-steps 3 --classifier noisy --output both.png --guidance-scale 2 $one
says "^  guidance +2"
says "^  classifier +noisy"
grep -aq "Guidance: 2, Classifier: noisy, Classifier scale: 1" both.png || fail "the PNG does not tell of both"
run 0 sample classes --num-inference-steps 3 --output picture.png --class 1 --init-image g/000000.png --guidance-scale 2 $one
says "^  guidance +2"

# ---- the schedule of a model from elsewhere ----
cp -r plain scaled
sed -i 's/"beta_start": [0-9.e-]*/"beta_start": 0.00085/; s/"beta_end": [0-9.e-]*/"beta_end": 0.012/; s/"beta_schedule": "linear"/"beta_schedule": "scaled_linear"/' scaled/scheduler/scheduler_config.json
refuse 1 "another noise schedule" sample scaled --classifier noisy --output x.png $one
run 0 $train --task classifier --noisy --model scaled --output fits
run 0 sample scaled --classifier fits --output scaled.png --class 1 --num-inference-steps 2 $one
refuse 1 "is a classifier.*use it with 'langevin sample MODEL --classifier'" sample fits --output x.png $one
sed 's/^{/{"time_embedding_type": "learned", "num_train_timesteps": 999, /' tiny.json >table.json
refuse 1 "has learned 999 timesteps" $train --task classifier --noisy --model table.json --output y
run 0 $train --task classifier --noisy --model table.json --output table --num-train-timesteps 999
sed -i 's/"num_train_timesteps": 999/"num_train_timesteps": 1000/' table/scheduler/scheduler_config.json
refuse 1 "'table' has learned 999 timesteps" sample plain --classifier table --output x.png $one
refuse 1 "is trained with betas" $train --task classifier --noisy --model tiny.json --output y --prediction-type flow

# ---- figures of what is drawn ----
judge="eval plain --data data --features clean --num-images 6 --num-inference-steps 2 $one"
run 0 $judge --classifier noisy --classifier-scale 50 --save-features guided.safetensors
says "^6 samples of plain against 60 of data"
says "^  guided by +noisy, scale 50"
says "^  class agreement"
run 0 $judge --save-features alone.safetensors --sampler ddim
! grep -q "class agreement" out.txt || fail "a class agreement of a model without classes"
differ guided.safetensors alone.safetensors
run 0 $judge --classifier noisy --json
grep -q '"pictures": 6' out.txt || fail "not all classes are known: $(cat out.txt)"
tr -d ' \n' <out.txt | grep -q '"classifier":{"path":"noisy","scale":1.0}' || fail "the JSON does not tell of the classifier"
run 0 eval classes --data data --features clean --num-images 6 --num-inference-steps 2 --classifier noisy --guidance-scale 2 $one
says "^  class agreement"
refuse 2 "classifier-scale belongs to --classifier" $judge --classifier-scale 2
refuse 2 "classifier-scale must be more than 0 and at most 10000, not -1" $judge --classifier noisy --classifier-scale -1
refuse 2 "guides a model while it draws, and 'data' holds none" eval data --data data --features clean --classifier noisy $one
refuse 2 "bpd judges the model alone" eval plain --data data --bpd --classifier noisy $one
refuse 1 "knows pictures without noise only" $judge --classifier clean
refuse 1 "ddpm and ddim, not euler" $judge --classifier noisy --sampler euler

# ---- mistakes ----
bad="sample plain --output x.png $one --num-inference-steps 3"
refuse 2 "classifier-scale belongs to --classifier" $bad --classifier-scale 2
refuse 2 "classifier-scale must be more than 0 and at most 10000, not 0" $bad --classifier noisy --classifier-scale 0
refuse 1 "'nowhere'" $bad --classifier nowhere
refuse 1 "holds a UNet2DModel, which tells no classes apart" $bad --classifier plain
refuse 1 "knows pictures without noise only" $bad --classifier clean
refuse 1 "trained for 20 timesteps of its schedule.*--num-train-timesteps 1000" $bad --classifier short
refuse 1 "another noise schedule.*beta-schedule, which is linear" $bad --classifier cosine
refuse 1 "takes pictures of 32x32 only, not of 16x16" $bad --classifier large
refuse 1 "ddpm and ddim, not dpmpp_2m" $bad --classifier noisy --sampler dpmpp_2m
refuse 1 "has no class 'cat'; it knows 0, 1, 2" $bad --classifier noisy --class cat
refuse 1 "a classifier can guide it \(--classifier\)" $bad --class 1
refuse 1 "nothing to guide" $bad --classifier noisy --guidance-scale 2
[ ! -s out.txt ] || fail "something is told before the refusal"
gone x.png

echo "$checks checks passed, $skipped skipped"
