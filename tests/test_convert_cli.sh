#!/bin/bash
# langevin convert and langevin info of files: every format into every other, round trips that change no bit, element
# types, which of several dictionaries is taken, and what is refused. Usage: test_convert_cli.sh BUILD_DIRECTORY
set -eu
. "$(dirname "$0")/support/cli.sh"
golden=$source_dir/tests/golden/torch

# ---- a trained model: folder -> .pt -> folder -> .safetensors -> .pth ----
idx data 40
network tiny.json "8, 16"
run 0 train --data data --model tiny.json --output out --max-train-steps 2 --train-batch-size 4 --lr-warmup-steps 0 --threads 1
run 0 convert out model.pt --weights raw
says "^model.pt: [0-9]+ tensors"
run 0 convert model.pt folder --model tiny.json
there folder/config.json
run 0 convert folder model.safetensors
run 0 convert model.safetensors model.pth
same model.pt model.pth
run 0 convert model.pth again.safetensors
same model.safetensors again.safetensors
run 0 convert out named.pt --weights raw --model tiny.json
same named.pt model.pt
run 0 info folder
says "weights +folder"
run 0 sample folder --output a.png --num-inference-steps 2 --threads 1 --no-metadata
run 0 sample out --weights raw --output b.png --num-inference-steps 2 --threads 1 --no-metadata
same a.png b.png
run 0 convert out averaged.pt
differ averaged.pt model.pt
run 0 convert out checked --dtype f32
there checked/scheduler_config.json

# ---- element types ----
run 0 convert model.pt half.pt --dtype f16
run 0 info half.pt
says "conv_in.weight +F16 +\(8, 1, 3, 3\)"
run 0 convert half.pt half.safetensors --dtype f32
run 0 convert half.safetensors half2.pt --dtype f16
same half.pt half2.pt
run 0 convert model.safetensors brain.ckpt --dtype BF16 --json
says '"tensors": [0-9]+'
run 0 info brain.ckpt --json
says '"type": "BF16"'

# ---- which dictionary ----
run 0 convert "$golden/nested.pt" ema.safetensors
says "2 tensors.*from 'ema.'"
run 0 convert "$golden/nested.pt" raw.safetensors --weights raw
says "2 tensors.*from 'model.'"
differ ema.safetensors raw.safetensors
run 0 convert "$golden/compvis.pt" sd.safetensors
says "6 tensors.*from 'state_dict.'"
refuse 1 "holds no averaged" convert "$golden/zip.pt" x.safetensors --weights ema
gone x.safetensors
for form in zip stream protocol4 protocol5; do
    run 0 convert "$golden/$form.pt" "$form.safetensors"
    same zip.safetensors "$form.safetensors"
done
real=$source_dir/../shared/weights
if [ -e "$real/taef2/taef2_encoder.pth" ]; then
    run 0 convert "$real/cifar10-resnet/resnet20-12fca82f.th" resnet.safetensors
    says "from 'state_dict.module.'"
    run 0 convert "$real/taef2/taef2_encoder.pth" taef2.safetensors
    run 0 convert taef2.safetensors taef2.pth
    run 0 convert taef2.pth taef2-again.safetensors
    same taef2.safetensors taef2-again.safetensors
else
    skip "there are no real files in ../shared/weights"
fi

# ---- info ----
run 0 info "$golden/nested.pt"
says "^  model.conv.weight +F32 +\(2, 3\)"
says "^  args.model +'DiT-XL/2'"
says "^  epoch +3"
run 0 info model.safetensors
says "format +pt"

# ---- refusals ----
refuse 2 "what into what" convert model.pt
refuse 1 "not there" convert missing.pt x.pt
refuse 1 "says nothing about its network" convert model.pt somewhere
refuse 1 "no element type" convert model.pt x.pt --dtype f8
refuse 1 "20 of|tensors are missing|is \[" convert "$golden/zip.pt" x --model tiny.json
refuse 1 "weights file without a configuration" sample model.pt --output x.png
head -c 3000 model.pt >cut.pt
refuse 1 "truncated or damaged" info cut.pt
refuse 1 "truncated or damaged" convert cut.pt x.safetensors
printf 'not a model' >text.pt
refuse 1 "text.pt" convert text.pt x.safetensors
gone x.safetensors

echo "$checks checks, $skipped skipped"
