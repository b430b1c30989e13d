#!/bin/bash
# Every sampler from the command line, and the two kinds of training beside betas: flow matching and EDM.
# Usage: test_samplers_cli.sh BUILD_DIRECTORY
set -eu
. "$(dirname "$0")/support/cli.sh"
idx data 40
network tiny.json "8, 16"
one="--threads 1"
train="train --data data --model tiny.json --train-batch-size 4 --lr-warmup-steps 0 --max-train-steps 6 $one"

# ---- three networks ----
run 0 $train --output betas
run 0 $train --output flow --prediction-type flow
says "flow matching, shift 1"
run 0 $train --output edm --prediction-type edm
says "EDM's preconditioning"
grep -q '"_class_name": "FlowMatchEulerDiscreteScheduler"' flow/scheduler/scheduler_config.json || fail "flow's class"
grep -q '"_class_name": "EDMEulerScheduler"' edm/scheduler/scheduler_config.json || fail "edm's class"
pass

# Resuming changes no bit: the draw of sigma is a function of seed, step and row.
for kind in flow edm; do
    run 0 $train --output $kind-short --prediction-type $kind --checkpointing-steps 3 --max-train-steps 3
    run 0 train --output $kind-short --resume-from-checkpoint latest --max-train-steps 6 $one
    same $kind/checkpoint-6/optimizer.safetensors $kind-short/checkpoint-6/optimizer.safetensors
done

# ---- the defaults, and every sampler ----
run 0 sample betas --output a.png $one
says "sampler +dpmpp_2m, 20 steps"
run 0 sample flow --output b.png $one
says "sampler +flow_euler, 20 steps"
run 0 sample edm --output c.png $one
says "sampler +edm_euler, 20 steps"
run 0 sample betas --output d.png --eta 0.5 --num-inference-steps 3 $one
says "sampler +ddim, 3 steps"
run 0 sample --sampler help
names=$(sed -n 's/^  \([a-z_0-9]*\)  *[0-9al]* steps.*/\1/p' out.txt)
[ "$(echo "$names" | wc -w)" -ge 26 ] || fail "the list of samplers is short"
for name in $names; do
    folder=betas
    case $name in
    edm_*) folder=edm ;;
    flow_*) folder=flow ;;
    ddim_inverse) continue ;;
    esac
    run 0 sample $folder --output $name.png --sampler $name --num-inference-steps 4 --num-images 2 $one
done
run 0 sample flow --output e.png --sampler uni_pc --num-inference-steps 4 $one
for schedule in karras exponential beta lu; do
    run 0 sample betas --output $schedule.png --sampler dpmpp_2m --sigma-schedule $schedule --num-inference-steps 4 $one
done
differ karras.png exponential.png
run 0 sample betas --output o3.png --sampler deis --solver-order 3 --num-inference-steps 5 $one
run 0 sample edm --output churn.png --s-churn 8 --s-tmin 0.05 --s-tmax 50 --s-noise 1.003 --num-inference-steps 4 $one
run 0 sample edm --output calm.png --num-inference-steps 4 $one
differ churn.png calm.png

# ---- refusals ----
refuse 2 "--sigma-schedule is karras, exponential, beta or lu, not 'polynomial'" sample betas --output x.png --sigma-schedule polynomial
refuse 1 "sampler 'ddim' has no sigma schedule 'karras'" sample betas --output x.png --sampler ddim --sigma-schedule karras
refuse 1 "sampler 'euler' has no solver order" sample betas --output x.png --sampler euler --solver-order 3
refuse 2 "--solver-order must be 1 to 8" sample betas --output x.png --solver-order 9
refuse 1 "solver_order of DPMSolverMultistepScheduler is 1, 2 or 3, not 5" sample betas --output x.png --sampler dpmpp_2m --solver-order 5
refuse 2 "--s-churn must be at least 0" sample betas --output x.png --sampler euler --s-churn -1
refuse 1 "'ddim' is for networks trained for noise schedules with betas.*choose 'edm_euler'" sample edm --output x.png --sampler ddim
refuse 1 "'edm_euler' is for networks trained for EDM.*choose 'dpmpp_2m'" sample betas --output x.png --sampler edm_euler
refuse 1 "EDMEulerScheduler is trained with the plain mse loss: no snr_gamma" $train --output x --prediction-type edm --snr-gamma 5
refuse 1 "FlowMatchEulerDiscreteScheduler is trained with the plain mse loss" $train --output x --prediction-type flow --loss vlb
refuse 2 "EDMEulerScheduler has no betas" $train --output x --prediction-type edm --beta-schedule linear
refuse 1 "which EDM has none of" $train --output x --prediction-type edm --rng torch
refuse 1 "beta schedule exp can be sampled but not trained" $train --output x --beta-schedule exp
refuse 2 "prediction_type.*flux" $train --output x --prediction-type flux
echo "$checks checks, $skipped skipped"
