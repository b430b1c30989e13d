#!/bin/bash
# A DiT through the program: trained on classes of pictures, resumed, sampled; its folder is transformer/ everywhere.
# Usage: test_dit_cli.sh BUILD_DIRECTORY
set -u
. "$(dirname "$0")/support/cli.sh"
for class in first second; do
    mkdir -p "data/$class"
    cp "$source_dir"/tests/golden/images/rgb{8,8i,8t,16}.png "data/$class"
done
cat >dit.json <<'JSON'
{"_class_name": "DiTTransformer2DModel", "sample_size": 16, "patch_size": 4, "in_channels": 3, "out_channels": 3, "num_layers": 2,
 "num_attention_heads": 2, "attention_head_dim": 16, "num_embeds_ada_norm": 2, "shared_embedding": true}
JSON
options=(--train-batch-size 4 --checkpointing-steps 2 --threads 1)

# ---- with classes: broken off and resumed gives the same bits ----
run 0 train --data data --output whole --model dit.json --class-conditional --max-train-steps 4 "${options[@]}"
run 0 train --data data --output parts --model dit.json --class-conditional --max-train-steps 2 "${options[@]}"
there parts/transformer/config.json
there parts/checkpoint-2/transformer_ema/diffusion_pytorch_model.safetensors
gone parts/unet
run 0 train --data data --output parts --resume-from-checkpoint latest --max-train-steps 4 "${options[@]}"
for folder in transformer checkpoint-4/transformer checkpoint-4/transformer_ema; do
    same whole/$folder/diffusion_pytorch_model.safetensors parts/$folder/diffusion_pytorch_model.safetensors
done
grep -q '"DiTPipeline"' whole/model_index.json || fail "the pipeline is none of DiT"
grep -q '"1": "second"' whole/model_index.json || fail "the classes have no names"
run 0 sample whole --output one.png --class second --num-inference-steps 2
run 0 sample whole --output first.png --class second --num-inference-steps 2 --guidance-channels 1
refuse 2 "guidance-channels must be 1" sample whole --output x.png --guidance-channels 0
run 0 info whole
says "DiTTransformer2DModel, 3 channels|DiTTransformer2DModel, 3 to 3"

# ---- without classes, from a preset ----
run 0 train --data data --output plain --model DiT-S/8 --resolution 16 --max-train-steps 1 --train-batch-size 2 --threads 1
grep -q '"class_conditional": false' plain/transformer/config.json || fail "classes, unasked"
run 0 sample plain --output two.png --num-inference-steps 2
refuse 1 "multiples of 8" train --data data --output never --model dit-s-8 --resolution 20

echo "$checks checks passed"
