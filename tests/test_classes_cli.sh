#!/bin/bash
# Pictures of a class, from the command line: training on labels, asking for classes in every way, guidance and its
# limits, what is written beside the pictures, and the sentence for each mistake. Usage: test_classes_cli.sh BUILD_DIRECTORY
set -eu
. "$(dirname "$0")/support/cli.sh"

idx data 60
{ printf '\0\0\10\1\0\0\0\74'; for i in $(seq 60); do printf "\\$(printf %o $((i % 3)))"; done; } >data/train-labels-idx1-ubyte
idx plain 20
least_network tiny.json
one="--threads 1"
train="train --model tiny.json --train-batch-size 4 --lr-warmup-steps 0 $one"
sample="sample m --num-inference-steps 2 $one"

# ---- training ----
refuse 2 "a classifier learns the classes anyway" $train --data data --output m --class-conditional --task classifier
refuse 2 "class-dropout-prob must be at least 0 and less than 1, not 1" $train --data data --output m --class-conditional --class-dropout-prob 1
refuse 1 "no classes to learn in 'plain'" $train --data plain --output m --class-conditional
refuse 1 "is unconditional: it has no labels to drop" $train --data data --output m --class-dropout-prob 0.2
gone m
run 0 $train --data data --output u --max-train-steps 2
says "note: 3 classes found; the model does not use them"
run 0 $train --data data --output m --max-train-steps 4 --class-conditional --checkpointing-steps 2
says "^  classes +0, 1, 2; 10 % of the labels dropped"
grep -q '"num_class_embeds": 4' m/unet/config.json || fail "the table has not four rows"
grep -q '"clip_sample": false' m/scheduler/scheduler_config.json || fail "DDIM would clip guided pictures"
grep -q '"null_label": 3' m/langevin.json || fail "langevin.json lacks the null label"
there m/samples/000004.png
# Stopped and gone on with, it is the same run; the command may be repeated as it was.
run 0 $train --data data --output r --max-train-steps 2 --class-conditional
run 0 $train --data data --output r --max-train-steps 4 --class-conditional --resume-from-checkpoint latest --lr-schedule-steps 4
same m/checkpoint-4/unet/diffusion_pytorch_model.safetensors r/checkpoint-4/unet/diffusion_pytorch_model.safetensors
refuse 1 "was trained without classes" $train --data data --output x --model u --class-conditional
refuse 1 "has no classes: put the pictures" $train --data plain --output x --model m
run 0 $train --data data --output tuned --model m --max-train-steps 1
says "fine-tuned from its weights"
says "^  classes +0, 1, 2"
run 0 $train --data data --output off --max-train-steps 1 --class-conditional --class-dropout-prob 0
says "no labels dropped, so no guidance"
grep -q '"null_label": null' off/langevin.json || fail "an untrained null label is named"

run 0 info m
says "^  classes +0, 1, 2; label 3 is none of them"
run 0 info m --json
tr -d ' \n' <out.txt | grep -q '"class_names":\["0","1","2"\],"null_label":3' || fail "the JSON lacks the names"
run 0 info off
says "^  classes +0, 1, 2$"
# The names go with a network that is converted.
run 0 convert m folder
run 0 info folder
says "^  classes +0, 1, 2; label 3 is none of them"
run 0 convert m m.pt --model m
run 0 convert m.pt again --model m
same folder/langevin.json again/langevin.json
run 0 $train --data data --output cv --model compvis-128 --resolution 16 --max-train-steps 1 --class-conditional
run 0 info cv
says "^cv: UNet2DModel"

# ---- asking for classes ----
run 0 $sample --output all.png
says "^sampling 3 pictures"
says "^  class +0, 1, 2"
says "^  guidance +3"
there all.png
run 0 $sample --output d --class 2,#0,none --guidance-scale 2 --guidance-rescale 0.5 --guidance-interval 0.2,0.8
says "^  guidance +2, rescale 0.5, from 0.2 to 0.8 of the steps"
printf 'file_name,label\n000000.png,2\n000001.png,0\n000002.png,\n' | cmp -s - d/metadata.csv || fail "metadata.csv: $(cat d/metadata.csv)"
grep -aq "Class: 2, Guidance: 2, Guidance rescale: 0.5, Guidance interval: 0.2 to 0.8" d/000000.png || fail "the PNG does not tell"
grep -aq "Class: none" d/000002.png || fail "the PNG does not tell of no class"
run 0 $sample --output d --class 1 --num-images 2
[ "$(tail -n 1 d/metadata.csv)" = 000004.png,1 ] || fail "the table does not go on"
# A picture is itself alone and in a batch.
run 0 $sample --output e --class 2 --guidance-scale 2 --guidance-rescale 0.5 --guidance-interval 0.2,0.8
same d/000000.png e/000000.png
run 0 $sample --output f --class 2 --guidance-scale 1
differ e/000000.png f/000000.png
run 0 eval d --data data --features m --num-reference 20 $one
run 0 eval m --data data --features m --num-images 8 --num-reference 20 --num-inference-steps 1 --guidance-scale 2 $one
run 0 sample off --output o.png --num-inference-steps 1 $one
says "^  guidance +off"

# ---- mistakes ----
refuse 1 "has no class 'cat'; it knows 0, 1, 2, and the numbers 0 to 2" $sample --output x.png --class cat
refuse 1 "has no class '#7'" $sample --output x.png --class '#7'
refuse 1 "a name is missing" $sample --output x.png --class 1,,2
refuse 2 "class is empty" $sample --output x.png --class ''
refuse 2 "guidance-scale must be more than 0.*--class none" $sample --output x.png --guidance-scale 0
refuse 2 "guidance-rescale must be 0 to 1" $sample --output x.png --guidance-rescale 2
refuse 2 "guidance-interval is two shares" $sample --output x.png --guidance-interval 0.8,0.2
refuse 2 "guidance-interval is two shares" $sample --output x.png --guidance-interval 0.8
refuse 2 "null-class is a label" $sample --output x.png --null-class -2
refuse 1 "labels are 0 to 3; 9 is none" $sample --output x.png --null-class 9
refuse 1 "trained without classes" sample u --output x.png --class 1 $one
refuse 1 "nothing to guide" sample u --output x.png --guidance-scale 3 $one
refuse 1 "name it \(null class\)" sample off --output x.png --guidance-scale 3 $one
run 0 sample off --output n.png --guidance-scale 3 --null-class 3 --num-inference-steps 1 $one
mkdir other
echo "file_name,colour" >other/metadata.csv
refuse 1 "other columns than file_name,label" $sample --output other
refuse 2 "guidance-scale must be more than 0" eval m --data data --features m --guidance-scale -1
gone x.png

# ---- a damaged langevin.json ----
cp -r m broken
echo '{"class_names": ["a", "b"], "null_label": 12}' >broken/langevin.json
refuse 1 "null label 12; the network knows the labels 0 to 3" sample broken --output x.png $one
echo "$checks checks passed, $skipped skipped"
