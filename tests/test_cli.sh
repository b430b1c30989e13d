#!/bin/bash
# The program as people meet it: every bad input gives one sentence, the right exit code, and loses
# nothing; stopping and going on changes no bit; pictures depend on their seed only.
# Usage: test_cli.sh BUILD_DIRECTORY. Works on pictures it makes itself, in a few dozen tiny runs.
set -eu
. "$(dirname "$0")/support/cli.sh"
configs=$source_dir/bench/configs
disk=$work/disk
trap 'umount "$disk" 2>/dev/null || true; rm -rf "$work"' EXIT

# ---- pictures and networks ----
idx data 40
network tiny.json "8, 16"
one="--threads 1"
base="train --train-batch-size 4 --lr-warmup-steps 0 --learning-rate 1e-3 $one"
train="$base --data data --model tiny.json"

# ---- help, spelling ----
for command in train sample info verify plan bench eval convert; do
    run 0 $command --help
    says "^Usage: langevin $command"
    says "^  langevin $command"
done
run 0 --help
run 2
refuse 2 "unknown option '--max-train-stps'; did you mean '--max-train-steps'" $train --output a --max-train-stps 3
refuse 2 "did you mean '--num-inference-steps'" sample model --output x.png --num-inference-stpes 3
refuse 2 "'more' is one argument too many; pictures are given as --data more" $train more --output a
for pair in lr:learning-rate steps:max-train-steps max-steps:max-train-steps epochs:num-train-epochs flip:random-flip \
    batch_size:train-batch-size image-size:resolution bf16:mixed-precision; do
    refuse 2 "did you mean '--${pair#*:}'" $train --output a --${pair%:*} 3
done
refuse 2 "did you mean '--num-inference-steps'" sample model --output x.png --steps 3
refuse 2 "did you mean '--guidance-scale'" sample model --output x.png --cfg 3
refuse 2 "'trian' is not a command; did you mean 'train'" trian
refuse 2 "learning-rate" $train --output a --learning-rate fast
refuse 2 "--data" train --output a
refuse 2 "--output" train --data data

# ---- info ----
run 0 info tiny.json --trace --plan
says "first convolution +\(1, 8, 16, 16\)"
says "^down_blocks.0.resnets.0.conv1 +conv2d "
run 0 info tiny.json --plan --mixed_precision bf16 --device cpu:scalar
says "bf16 mixed precision"
says "^down_blocks.0.resnets.0.conv1 +conv2d +gemm \(via f32\) "
says "^conv_out +conv2d +(gemm|direct|plain|winograd) +1x16"
refuse 2 "--mixed-precision: there is no mixed precision 'fp16': choose no or bf16" info tiny.json --mixed-precision fp16
# The network of the article: tells of tens of gigabytes without taking them.
run 0 info "$configs/article_unet128.json" --trace --batch-size 32
says "108414979"
says "first convolution +\(32, 128, 128, 128\)"
says "time embedding +\(32, 512\)"
run 0 info data
says "40 pictures to train on"
run 0 info data --json
# Every picture is looked at: counts, formats, classes, what is broken and what is there twice.
golden=$(cd "$configs/../../tests/golden" && pwd)
cp -r "$golden/webdataset" shards
cp "$golden/images/rgb8.png" shards/one.png
cp "$golden/images/rgb8.png" shards/two.png
head -c 60 "$golden/images/grey.jpg" >shards/cut.jpg
run 0 info shards --contact-sheet sheet.png
says "^shards: 15 pictures to train on, 0 for validation"
says "formats +PNG 2, JPEG 13"
says "classes +3: 0 4, 1 4, 2 4; 3 without a label"
says "broken +1$"
says "shards/cut.jpg: .*(damaged|truncated)"
says "shards/two.png is shards/one.png"
there sheet.png
run 0 info "shards/{000000..000001}.tar" --headers-only --json
says '"JPEG": 12'
rm shards/cut.jpg shards/*.png
refuse 2 "about what" info
refuse 1 "nowhere" info nowhere

# ---- bad input to training ----
refuse 1 "nowhere" train --data nowhere --output a --model tiny.json
mkdir empty
refuse 1 "empty.*no pictures|no pictures.*empty" train --data empty --output a --model tiny.json
mkdir words
echo "no picture" >words/a.png
refuse 1 "'words' holds no pictures, only 1 other files such as 'a.png'" train --data words --output a --model tiny.json
refuse 1 "multiples of 2" $train --output a --resolution 17
network odd.json "9, 18"
refuse 1 "norm_num_groups|groups" $base --data data --output a --model odd.json
refuse 1 "neither a file or folder nor a preset; the presets are unet-32" $base --data data --output a --model unet-33
echo '{"_class_name": "UNet2DModel", ' >broken.json
refuse 1 "broken.json" $base --data data --output a --model broken.json
refuse 2 "--train-batch-size must be at least 1" $train --output a --train-batch-size 0
refuse 2 "--learning-rate must be more than 0" $train --output a --learning-rate -1
refuse 2 "exclude each other" $train --output a --max-train-steps 3 --num-train-epochs 1
refuse 2 "lr-scheduler" $train --output a --lr-scheduler cosin
refuse 2 "prediction_type" $train --output a --prediction-type noise
refuse 2 "no mixed precision 'f16'" $train --output a --mixed-precision f16
refuse 2 "--memory-budget must be a size" $train --output a --memory-budget plenty
refuse 1 "device|cpu:gpu" $train --output a --device cpu:gpu
refuse 1 "no default model above 128x128" train --data data --output a --resolution 256
refuse 1 "there is no checkpoint 'a/checkpoint-7'" $train --output a --resume-from-checkpoint a/checkpoint-7
refuse 1 "the output folder 'data' is the folder of the pictures; choose another" $train --output data
gone data/langevin.json
gone a # nothing of all this left anything behind

# ---- a run ----
run 0 $train --output a --max-train-steps 12 --checkpointing-steps 4
says "40 pictures: expect near copies"
says "tiny.json, .* parameters, from scratch"
says "16x16, 1 channel"
says "steps +12 "
says "learning rate +0.001"
says "memory +.* activations"
says "per step, .* ends about"
! grep -q "$(printf '\033\|\r')" out.txt || fail "control characters without a terminal"
pass
for file in model_index.json unet/config.json unet/diffusion_pytorch_model.safetensors \
    scheduler/scheduler_config.json checkpoint-12/unet_ema/diffusion_pytorch_model.safetensors \
    checkpoint-12/optimizer.safetensors checkpoint-12/trainer.json langevin.json loss.png samples/000012.png; do
    there "a/$file"
done
[ "$(grep -c '"loss"' a/log.jsonl)" = 12 ] || fail "log.jsonl has not one line for each step"
pass
same a/unet/diffusion_pytorch_model.safetensors a/checkpoint-12/unet_ema/diffusion_pytorch_model.safetensors
run 0 $train --output two --max-train-steps 12 --checkpoints-total-limit 1 --checkpointing_steps 4
gone two/checkpoint-8 # rotation
same a/checkpoint-12/optimizer.safetensors two/checkpoint-12/optimizer.safetensors # the same run again
run 0 $train --output two --max-train-steps 2 --ema-decay 0 --overwrite
gone two/checkpoint-12
gone two/checkpoint-2/unet_ema

# ---- a second run in the same folder, resuming ----
whole a >before.txt
refuse 1 "'a' already holds a run.*--resume-from-checkpoint latest.*--overwrite" $train --output a
refuse 2 "exclude each other" $train --output a --overwrite --resume-from-checkpoint latest
refuse 1 "there is no checkpoint 'checkpoint-7'; the newest of 'a' is checkpoint-12" \
    $train --output a --resume-from-checkpoint checkpoint-7
echo file >plain
refuse 1 "'plain' is a file" $train --output plain
whole a >after.txt
same before.txt after.txt
run 0 $train --output none --resume-from-checkpoint latest --max-train-steps 2
says "no checkpoint in 'none' yet: starting from the beginning"
idx other 41
refuse 1 "allow-data-change" $base --model tiny.json --data other --output a --resume-from-checkpoint latest --max-train-steps 13
network wide.json "16, 16"
refuse 1 "another network" $base --data data --output a --model wide.json --resume-from-checkpoint latest

# ---- stopped by a signal, gone on: the bits of an unbroken run ----
steps() { grep -c '"loss"' "$1/log.jsonl" 2>/dev/null || true; }
$langevin $train --output b --max-train-steps 1000000 >out.txt 2>err.txt &
pid=$!
for _ in $(seq 3000); do
    [ "$(steps b)" -ge 5 ] 2>/dev/null && break
    sleep 0.02
done
kill -TERM $pid
code=0
wait $pid || code=$?
[ $code = 143 ] || fail "SIGTERM: exit code $code, expected 143"
pass
says "^go on with: langevin train --output b --resume-from-checkpoint latest --threads 1$"
at=$(steps b)
there "b/checkpoint-$at/trainer.json"
again=$(sed -n 's/^go on with: langevin //p' out.txt)
run 0 $again --max-train-steps $((at + 5))
says "going on from b/checkpoint-$at"
says "max_train_steps: $((at + 5)), was 1000000"
run 0 $train --output c --max-train-steps $((at + 5))
last=checkpoint-$((at + 5))
for file in unet unet_ema; do
    same b/$last/$file/diffusion_pytorch_model.safetensors c/$last/$file/diffusion_pytorch_model.safetensors
done
same b/$last/optimizer.safetensors c/$last/optimizer.safetensors
[ "$(steps b)" = $((at + 5)) ] || fail "the log of the resumed run has not one line for each step"
pass

# A reader that goes away stops the run as a signal does.
"$langevin" $train --output p --max-train-steps 1000000 2>err.txt | head -n 3 >out.txt
code=${PIPESTATUS[0]}
[ "$code" = 141 ] || fail "nobody reads: exit code $code, expected 141"
[ -e "$(echo p/checkpoint-*/trainer.json)" ] || fail "nobody reads: nothing was saved"
pass; pass

# ---- not a number ----
refuse 1 "not finite in 10 steps in a row.*last good checkpoint is 'c/$last'.*learning-rate" \
    $train --output c --resume-from-checkpoint latest --learning-rate 9e5 --max-grad-norm 0 --max-train-steps 1000
run 0 train --output c --resume-from-checkpoint c/$last --max-train-steps $((at + 6)) $one # still good
refuse 1 "not finite in 10 steps in a row.*there is no checkpoint yet" \
    $train --output d --learning-rate 9e5 --max-grad-norm 0

# ---- no room ----
# A file that may not grow fails as a full disk does, while writing.
whole a/checkpoint-12 >before.txt
limited() { (trap '' XFSZ; ulimit -f 64; exec "$langevin" "$@"); }
code=0
limited $train --output a --resume-from-checkpoint latest --max-train-steps 16 >out.txt 2>err.txt || code=$?
[ $code = 1 ] || fail "no room: exit code $code, expected 1"
grep -Eq "langevin train: .*(File too large|No space)" err.txt || fail "no room: stderr does not say why"
pass
whole a/checkpoint-12 >after.txt
same before.txt after.txt
gone a/checkpoint-16
run 0 $train --output a --resume-from-checkpoint latest --max-train-steps 14
there a/checkpoint-14
gone "$(echo a/.tmp-*)"
mkdir "$disk"
if mount -t tmpfs -o size=4m none "$disk" 2>/dev/null; then
    run 0 $train --output "$disk/run" --max-train-steps 2
    dd if=/dev/zero of="$disk/filler" bs=64k >/dev/null 2>&1 || true
    whole "$disk/run/checkpoint-2" >before.txt
    refuse 1 "MB free|No space" $train --output "$disk/run" --resume-from-checkpoint latest --max-train-steps 4
    whole "$disk/run/checkpoint-2" >after.txt
    same before.txt after.txt
    refuse 1 "No space" sample a --output "$disk/full.png" --num-images 64 --num-inference-steps 1 $one
    gone "$disk/full.png"
    rm "$disk/filler"
    run 0 $train --output "$disk/run" --resume-from-checkpoint latest --max-train-steps 4
else
    skip "a full disk: mounting a small one is not permitted here"
fi

# ---- damage ----
run 0 $train --output e --max-train-steps 8 --checkpointing-steps 4
truncate -s -100 e/checkpoint-8/optimizer.safetensors
refuse 1 "checkpoint-8.*damaged.*newest whole checkpoint before it is 'e/checkpoint-4'" \
    $train --output e --resume-from-checkpoint latest --max-train-steps 9
run 0 train --output e --resume-from-checkpoint e/checkpoint-4 --max-train-steps 5 $one
says "checkpoint-8 is beyond this run's start: renamed to 'e/abandoned-checkpoint-8'"
there e/abandoned-checkpoint-8/trainer.json
gone e/checkpoint-8
there e/checkpoint-5/trainer.json
cp -r a/unet short
truncate -s -100 short/diffusion_pytorch_model.safetensors
refuse 1 "short.*diffusion_pytorch_model.safetensors" sample short --output x.png $one
cp -r a/unet shapes
cp wide.json shapes/config.json
refuse 1 "conv_in.weight|shape" sample shapes --output x.png $one
mkdir bare
cp tiny.json bare/config.json
refuse 1 "without weights" sample bare --output x.png $one
gone x.png

# ---- sampling ----
sample="sample a --num-inference-steps 4 $one --no-metadata"
refuse 1 "neither a file or folder nor a preset" sample nowhere --output x.png
refuse 1 "cannot write 'no/x.png'" $sample --output no/x.png
refuse 2 "PNG" $sample --output x.jpg
refuse 2 "there is no sampler 'eular'; 'langevin sample --sampler help' lists them" $sample --output x.png --sampler eular
refuse 1 "2000" sample a --num-inference-steps 2000 --output x.png
refuse 1 "descending" sample a --timesteps 3,5 --output x.png
refuse 1 "multiples of 2" $sample --resolution 15 --output x.png
refuse 2 "--num-images" $sample --num-images 0 --output x.png
refuse 1 "too many for one PNG; give a folder" $sample --num-images 1000000 --output x.png
refuse 2 "--seed" $sample --seed -2 --output x.png
refuse 2 "--weights is ema or raw" $sample --weights best --output x.png
gone x.png

run 0 $sample --output grid.png --num_images 5 --batch_size 3 --save-tensors grid.st
says "seed +0 to 4"
run 0 sample a --num-inference-steps 4 --no-metadata --threads 2 --output grid2.png --num-images 5 --save-tensors grid2.st
same grid.png grid2.png # threads, batch size
same grid.st grid2.st
run 0 $sample --output_dir many --num-images 5
run 0 $sample --output alone.png --seed 3
same many/000003.png alone.png
run 0 $sample --output many --num-images 2 --seed 3
same many/000005.png many/000003.png # goes on after the highest
cp grid.png many/000041.png
run 0 $sample --output many
same many/000041.png grid.png
there many/000042.png
[ "$(find many -name '.*.png' | wc -l)" = 0 ] || fail "drafts are left in the folder"
pass
run 0 $sample --output grid.png --seed 9 # a named file is replaced
differ grid.png grid2.png
run 0 sample a --output text.png --seed 7 --num-inference-steps 4 --eta 0.5 $one
grep -aq "parameters.*Steps: 4, Sampler: ddim, Seed: 7, .*Model hash: [0-9a-f]\{16\}, .*Eta: 0.5" text.png || fail "text.png lacks its text"
pass
! grep -aq parameters alone.png || fail "--no-metadata left a text"
pass
run 0 $sample --output drawn.png --seed -1
seed=$(sed -n 's/^  seed *//p' out.txt)
run 0 $sample --output drawn2.png --seed "$seed"
same drawn.png drawn2.png
for rng in torch torch-batch; do
    run 0 $sample --output $rng.png --rng $rng
    differ $rng.png many/000000.png
done
same torch.png torch-batch.png
run 0 sample a --output ddpm.png --sampler DDPMScheduler --num-inference-steps 4 $one
run 0 sample a --output model.png --sampler model --num-inference-steps 4 $one
run 0 $sample --output raw.png --weights raw
differ raw.png many/000000.png
run 0 sample a --output list.png --timesteps 999,500,1 $one
run 0 $sample --output between --interpolate 3,4 --num-images 3
same between/000000.png many/000003.png
same between/000002.png many/000004.png
run 0 $sample --output inverted.png --sampler ddim_inverse --init-image many/000003.png --save-tensors inverted.st
run 0 $sample --output back.png --init-noise inverted.st
refuse 2 "ddim_inverse" $sample --output x.png --init-image many/000003.png --strength 0.5 --sampler ddim_inverse
refuse 1 "no tensor 'noise'" $sample --output x.png --init-noise grid.st
head -c 100 grid.st >cut.st
refuse 1 "cut.st" $sample --output x.png --init-noise cut.st

$langevin sample a --output stopped --num-images 100000 --batch-size 2 --num-inference-steps 4 $one >out.txt 2>err.txt &
pid=$!
for _ in $(seq 3000); do
    [ -e stopped/000003.png ] && break
    sleep 0.02
done
kill -INT $pid
code=0
wait $pid || code=$?
[ $code = 130 ] || fail "SIGINT while sampling: exit code $code, expected 130"
pass
count=$(find stopped -name '[0-9]*.png' | wc -l)
says "^stopped; $count of 100000 pictures are written"
says "^go on with: langevin sample a .* --num-images $((100000 - count)) --seed $count$"

# ---- pictures of a folder: made here, one of them broken ----
cp many/000001.png many/cut.png
truncate -s 100 many/cut.png
run 0 train --data many --output f --model tiny.json --train-batch-size 2 --max-train-steps 5 $one
says "skipped.*cut.png"
refuse 1 "cut.png" train --data many --output g --model tiny.json --train-batch-size 8 --max-train-steps 20 --strict $one
run 0 train --data many --output h --model a --train-batch-size 2 --max-train-steps 1 --prediction-type v_prediction $one
says "fine-tuned"
says "v_prediction"
# Shards and weights: the run remembers its sources, and going on changes no bit.
mix="train --data shards=2.5 --data shards/{000000..000001}.tar --model tiny.json --train-batch-size 4 $one"
run 0 $mix --output mix1 --max-train-steps 12
run 0 $mix --output mix2 --max-train-steps 5
run 0 train --output mix2 --resume-from-checkpoint latest --max-train-steps 12 $one
same mix1/unet/diffusion_pytorch_model.safetensors mix2/unet/diffusion_pytorch_model.safetensors
refuse 1 "knows no weights" $mix --output mix3 --max-train-steps 5 --rng torch
refuse 2 "'heavy' is no weight" train --data data=heavy --output mix3 --model tiny.json
refuse 2 "between 0.001 and 1000" train --data data=0 --output mix3 --model tiny.json
run 0 train --data data --output t --model tiny.json --rng torch --train-batch-size 4 --gradient-accumulation-steps 2 --max-train-steps 2 $one

# ---- mixed precision ----
run 0 $train --output m --max-train-steps 3 --mixed-precision bf16
says "bf16 mixed precision"
run 0 $train --output m --resume-from-checkpoint latest --max-train-steps 4
says "bf16 mixed precision" # the run's, since none is stated
run 0 $train --output m --resume-from-checkpoint latest --max-train-steps 5 --mixed-precision no
says 'note: not bit-exact: mixed_precision: "no", was "bf16"'
says "1 thread, float32"
run 0 sample m --output m.png --num-inference-steps 2 --mixed-precision bf16 $one
says "bf16 mixed precision"
grep -q "Mixed precision: bf16" m.png || fail "the picture's text does not say bf16"

# ---- on a terminal ----
if script -qec true /dev/null >/dev/null 2>&1 </dev/null; then
    script -qec "$langevin $train --output term --max-train-steps 40" /dev/null >out.txt 2>&1 </dev/null
    grep -q "$(printf '\r\033\[K')" out.txt || fail "no live bar on a terminal"
    NO_COLOR=1 script -qec "$langevin $train --output term2 --max-train-steps 40" /dev/null >out.txt 2>&1 </dev/null
    ! grep -q "$(printf '\033\[3')" out.txt || fail "colour in spite of NO_COLOR"
    pass; pass
else
    skip "the live bar: script(1) cannot make a terminal here"
fi

echo "$checks checks passed, $skipped parts skipped"
