#!/bin/bash
# What a person looks at: animations of sampling, figures and animation of a run, TensorBoard's files,
# previews in a terminal. Usage: test_pictures.sh BUILD_DIRECTORY. A few tiny runs on pictures made here.
set -eu
. "$(dirname "$0")/support/cli.sh"

begins() { # FILE BYTES: the file begins so (octal escapes)
    [ "$(head -c "$(printf "$2" | wc -c)" "$1" | od -An -tx1)" = "$(printf "$2" | od -An -tx1)" ] || fail "$1 is no such file"
    pass
}
# GIF: frames are counted by their graphics control extensions.
frames() { [ "$(LC_ALL=C grep -aoF "$(printf '!\371\4')" "$1" | wc -l)" = "$2" ] || fail "$1 has not $2 frames"; pass; }

idx data 40
network tiny.json "8, 16"
one="--threads 1"
train="train --data data --model tiny.json --train-batch-size 4 --lr-warmup-steps 0 --learning-rate 1e-3 $one"

# ---- a run's figures ----
run 0 $train --output a --max-train-steps 5 --preview
! grep -q "$(printf '\033')" out.txt || fail "control characters without a terminal"
pass
begins a/loss.png '\211PNG'
begins a/timesteps.png '\211PNG'
begins a/loss.svg '<?xml'
begins a/timesteps.svg '<?xml'
gone a/samples.gif # one grid does not move
gone a/loss.svg.draft
grep -q '"loss_by_timestep": *\[' a/log.jsonl || fail "the log does not tell the loss by timestep"
pass
[ "$(find a/tensorboard -name 'events.out.tfevents.*' | wc -l)" = 1 ] || fail "no event file"
pass
for tag in loss lr grad_norm samples options; do
    LC_ALL=C grep -aq "$tag" a/tensorboard/events.out.tfevents.* || fail "TensorBoard hears nothing of $tag"
    pass
done
run 0 $train --output a --resume-from-checkpoint latest --max-train-steps 8
frames a/samples.gif 2
begins a/samples.gif 'GIF89a'
[ "$(find a/tensorboard -name 'events.out.tfevents.*' | wc -l)" = 2 ] || fail "a resumed run does not go on"
pass
run 0 $train --output a --overwrite --max-train-steps 2
gone a/samples.gif
[ "$(find a/tensorboard -name 'events.out.tfevents.*' | wc -l)" = 1 ] || fail "--overwrite leaves events"
pass

# ---- animations of sampling ----
sample="sample a --num-inference-steps 6 $one --no-metadata"
run 0 $sample --output one.png --num-images 5 --animation a.gif
says "animation +a.gif \(6 frames of 5 pictures, "
begins a.gif 'GIF89a'
frames a.gif 6
run 0 $sample --output two.png --num-images 5 --batch-size 2 --animation b.gif --animation-frames 3
frames b.gif 3
same one.png two.png # watching changes nothing
run 0 $sample --output one.png --num-images 5 --batch-size 2 --animation c.gif
same a.gif c.gif
run 0 $sample --output one.png --num-images 5 --animation noisy.gif --animation-of x_t
differ a.gif noisy.gif
run 0 $sample --output one.png --num-images 70 --animation a.webp
says "6 frames of 64 pictures"
begins a.webp 'RIFF'
run 0 $sample --output one.png --num-images 3 --animation strip.png
begins strip.png '\211PNG\r\n\32\n\0\0\0\15IHDR\0\0\0\156\0\0\0\70' # 6 pictures of 16 across, 3 down, 2 between
run 0 $sample --output folder --num-images 3 --animation alone.gif
refuse 2 "ends in .gif, .webp or .png" $sample --output x.png --animation a.mp4
refuse 2 "x_0.*x_t" $sample --output x.png --animation x.gif --animation-of noise
refuse 2 "give --animation" $sample --output x.png --animation-frames 4
refuse 2 "animation-frames must be 1 to 1000" $sample --output x.png --animation x.gif --animation-frames 0
refuse 1 "cannot write 'no/x.gif'" $sample --output x.png --animation no/x.gif
gone x.png
gone x.gif

# ---- previews ----
# in_terminal NAME=VALUE...: what a terminal gets from a preview of two pictures
in_terminal() {
    env -u NO_COLOR -u COLORTERM LC_ALL=C.UTF-8 TERM=xterm "$@" \
        script -qec "$langevin $sample --output p.png --num-images 2 --preview" /dev/null >out.txt 2>err.txt </dev/null
}
holds() { LC_ALL=C grep -aqF "$(printf "$1")" out.txt || fail "the preview does not hold '$1'"; pass; }
lacks() { ! LC_ALL=C grep -aqF "$(printf "$1")" out.txt || fail "the preview holds '$1'"; pass; }
if script -qec true /dev/null >/dev/null 2>&1 </dev/null; then
    in_terminal COLORTERM=truecolor
    holds '\033[38;2;'
    holds '\342\226\200'
    in_terminal TERM=xterm-256color
    holds '\033[38;5;'
    lacks '\033[38;2;'
    in_terminal
    holds '\342\226\221' # shades
    lacks '\033[38;'
    in_terminal NO_COLOR=1 COLORTERM=truecolor
    lacks '\033[3'
    in_terminal LC_ALL=C
    lacks '\342\226'
    run 0 $train --output t --max-train-steps 3
    script -qec "$langevin $train --output t --resume-from-checkpoint latest --max-train-steps 60 --preview" /dev/null >out.txt 2>err.txt </dev/null
    holds 't/samples/000060.png'
    run 0 $sample --output p.png --preview
    says "preview +none: this is no terminal"
else
    echo "skipped: previews: script(1) cannot make a terminal here"
    skipped=$((skipped + 1))
fi

echo "$checks checks passed, $skipped parts skipped"
