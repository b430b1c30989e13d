#!/bin/bash
# From class folders to figures: a classifier is trained, saved, resumed and used; copies are found; figures come
# during training; the demo model is found where it should be. Usage: test_eval.sh BUILD_DIRECTORY
set -eu
. "$(dirname "$0")/support/cli.sh"

# labelled FOLDER COUNT: 16x16 pictures, dark ones and light ones, with labels 0 and 1
labelled() {
    mkdir -p "$1"
    { printf '\0\0\10\3\0\0\0'; printf "\\$(printf %o "$2")"; printf '\0\0\0\20\0\0\0\20'
      for i in $(seq "$2"); do
          [ $((i % 2)) = 1 ] && set_='!-/' || set_='f-z'
          seq $((i * 37)) 99999 | head -c 256 | tr '0-9\n' "$set_"
      done; } >"$1/train-images-idx3-ubyte"
    { printf '\0\0\10\1\0\0\0'; printf "\\$(printf %o "$2")"
      for i in $(seq "$2"); do printf "\\$(printf %o $(((i + 1) % 2)))"; done; } >"$1/train-labels-idx1-ubyte"
}
cat >tiny.json <<END
{"_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
 "block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "DownBlock2D"],
 "up_block_types": ["UpBlock2D", "UpBlock2D"], "norm_num_groups": 1, "add_attention": false}
END
labelled data 60
mkdir plain
cp data/train-images-idx3-ubyte plain/
one="--threads 1"
classify="train --task classifier --model tiny.json --train-batch-size 8 --learning-rate 3e-3 --lr-warmup-steps 0 $one"

# ---- the classifier ----
refuse 2 "--task is diffusion or classifier, not 'clasifier'" train --task clasifier --data data --output c
refuse 1 "no classes to learn" $classify --data plain --output c
refuse 1 "philox" $classify --data data --output c --rng torch
[ ! -e c ] || fail "a refusal left something behind"
run 0 $classify --data data --output c --max-train-steps 30 --checkpointing-steps 10
says "cross-entropy over 2 classes"
says "training accuracy"
there c/unet/config.json
there c/checkpoint-30/unet_ema/diffusion_pytorch_model.safetensors
[ ! -e c/model_index.json ] || fail "a classifier is no pipeline"
grep -q '"id2label"' c/unet/config.json || fail "config.json lacks the names"
grep -q '"accuracy"' c/log.jsonl || fail "log.jsonl lacks the accuracy"
pass; pass
run 0 train --output c --resume-from-checkpoint latest --max-train-steps 32 $one
says "cross-entropy over 2 classes"
run 0 info c
says "tells apart +0, 1"
refuse 2 "noisy is for --task classifier" train --noisy --data data --output n
run 0 $classify --noisy --data data --output n --max-train-steps 4 --checkpointing-steps 2
says "cross-entropy over 2 classes of pictures with noise"
grep -q '"pool": "attention"' n/unet/config.json && grep -q '"noisy": true' n/unet/config.json || fail "config.json of n"
run 0 train --output n --resume-from-checkpoint latest --max-train-steps 6 $one
says "of pictures with noise"
run 0 eval data --data data --features n $one
refuse 1 "is a classifier" sample c --output x.png $one
run 0 train --task classifier --data data --output d --max-train-steps 1 --resolution 16 $one # the default network
refuse 1 "another network|is a classifier" train --task diffusion --data data --model c --output e --resolution 16 $one

# ---- figures of pictures ----
refuse 2 "what is to be judged" eval --data data
refuse 2 "compared with what" eval data
refuse 2 "in which feature space" eval data --data data
refuse 2 "train or validation" eval data --data data --features c --split test
refuse 1 "nowhere" eval nowhere --data data --features c $one
refuse 1 "holds no pictures back" eval data --data data --features c --split validation $one
run 0 eval data --data data --features c --save-features f.safetensors $one
says "Frechet distance +[0-9.e-]+ "
says "precision +1 "
says "class agreement"
there f.safetensors
run 0 eval f.safetensors --data f.safetensors $one
says "precision +1 "
run 0 eval data --data data --features c --num-images 20 --num-reference 30 --json $one
run 0 eval data --data data --nearest sheet.png $one
says "copies +100 %"
there sheet.png
refuse 2 "name it .png" eval data --data data --nearest sheet.jpg

# ---- figures during training, of a model, with another network's features ----
refuse 2 "--eval-features" train --data data --output m --eval-steps 2
refuse 1 "eval_features: .*nowhere" train --data data --output m --model tiny.json --eval-steps 2 --eval-features nowhere $one
run 0 train --data data --output m --model tiny.json --train-batch-size 4 --max-train-steps 4 --eval-steps 2 --eval-features c \
    --eval-samples 8 --eval-inference-steps 2 $one
says "Frechet distance"
[ "$(grep -c frechet_distance m/log.jsonl)" = 2 ] || fail "log.jsonl has not two evaluations"
pass
run 0 train --output m --resume-from-checkpoint latest --max-train-steps 5 $one
says "state --eval-features again"
run 0 eval m --data data --features c --num-images 8 --num-inference-steps 2 --nearest near.png $one
says "8 samples of m against 60 of data"
run 0 eval m --data data --features m --num-images 8 --num-inference-steps 2 $one

# ---- the bound: finite, and any batch size gives the same ----
run 0 eval m --data data --bpd --num-images 3 --timestep-respacing 4 --json $one
cp out.txt bound.txt
run 0 eval m --data data --bpd --num-images 3 --timestep-respacing 4 --batch-size 5 --json $one
same_json() { sed 's/"seconds": [0-9.e-]*//' "$1"; }
[ "$(same_json bound.txt)" = "$(same_json out.txt)" ] || fail "the bound depends on the batch size"
grep -q '"bits_per_dim": [0-9]' out.txt || fail "no bound"
run 0 eval m --data data --bpd --num-images 2 --timestep-respacing 2,3 $one
says "bits/dim"
refuse 1 "section of 1000" eval m --data data --bpd --timestep-respacing 5000 $one
refuse 2 "figure of its own" eval m --data data --bpd --nearest x.png
refuse 2 "belongs to --bpd" eval m --data data --nearest x.png --timestep-respacing 5
refuse 2 "is no loss" train --data data --output v --loss nothing
refuse 2 "draws no timesteps" train --data data --output v --schedule-sampler nothing
refuse 1 "gives none" train --data data --output v --model tiny.json --loss hybrid $one

# ---- the demo model ----
mkdir -p share/demo-model
cp -r m/unet m/scheduler m/model_index.json share/demo-model/
LANGEVIN_DATA=$work/share run 0 sample --output demo.png --no-metadata --num-inference-steps 2 $one
says "from $work/share/demo-model"
there demo.png
if [ -e "$(dirname "$langevin")/demo-model" ]; then # the build folder's link to models/demo
    LANGEVIN_DATA=$work/nothing run 0 sample --output built.png --num-inference-steps 2 $one
    says "/demo-model .*parameters"
fi
mkdir -p moved/bin moved/share/langevin
cp "$langevin" moved/bin/
build=$langevin
langevin=$work/moved/bin/langevin
if [ ! -e /usr/share/langevin/demo-model ] && [ ! -e /usr/local/share/langevin/demo-model ]; then
    LANGEVIN_DATA=$work/nothing refuse 2 "which model.*demo model is missing.*LANGEVIN_DATA" sample --output x.png
fi
cp -r share/demo-model moved/share/langevin/
unset LANGEVIN_DATA
run 0 sample --output moved.png --no-metadata --num-inference-steps 2 $one
says "moved/bin/../share/langevin/demo-model"
cmp -s demo.png moved.png || fail "the same model drew other pictures"
langevin=$build

echo "$checks checks passed"
