/* langevin.h - everything: the engine (graphs, plans, samplers), models and pipelines, training, evaluation.
   Each header can also be included alone. docs/embedding.md is the guide. */
#ifndef LANGEVIN_LANGEVIN_H
#define LANGEVIN_LANGEVIN_H

#include "animation.h"
#include "bpd.h"
#include "condition.h"
#include "convert.h"
#include "custom.h"
#include "dataset.h"
#include "dit.h"
#include "dtype.h"
#include "eval.h"
#include "events.h"
#include "graph.h"
#include "image.h"
#include "model.h"
#include "ops.h"
#include "pipeline.h"
#include "plan.h"
#include "rng.h"
#include "safetensors.h"
#include "sampler.h"
#include "schedule.h"
#include "status.h"
#include "step.h"
#include "torch_file.h"
#include "train.h"
#include "unet2d.h"
#include "version.h"

#endif
