/* scheduler_fields.c - one line per field of scheduler_config.json, with the classes of diffusers that
   have it, and the defaults of each class. */
#include "diffusion/scheduler_fields.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum {
    DDPM = 1 << 0,
    DDIM = 1 << 1,
    INVERSE = 1 << 2,
    PNDM = 1 << 3,
    LCM = 1 << 4,
    TCD = 1 << 5,
    DPM = 1 << 6,
    SINGLE = 1 << 7,
    UNIPC = 1 << 8,
    DEIS = 1 << 9,
    EULER = 1 << 10,
    EULER_A = 1 << 11,
    HEUN = 1 << 12,
    KDPM2 = 1 << 13,
    KDPM2_A = 1 << 14,
    LMS = 1 << 15,
    DPM_SDE = 1 << 16,
    EDM_EULER = 1 << 17,
    EDM_DPM = 1 << 18,
    FLOW_EULER = 1 << 19,
    FLOW_HEUN = 1 << 20
};

/* Those that share groups of fields. */
enum {
    EDM = EDM_EULER | EDM_DPM,
    FLOW = FLOW_EULER | FLOW_HEUN,
    CONSISTENCY = LCM | TCD,
    SECOND_ORDER = HEUN | KDPM2 | KDPM2_A | DPM_SDE,
    K = EULER | EULER_A | LMS | SECOND_ORDER, /* after k-diffusion: x = x0 + sigma eps */
    SOLVERS = DPM | SINGLE | UNIPC | DEIS,
    LISTED = DDPM | DDIM | INVERSE | PNDM | CONSISTENCY, /* a list of integer timesteps */
    BETAS = LISTED | SOLVERS | K,
    SPACED = BETAS & ~SINGLE,
    SIGMAS = SOLVERS | (K & ~EULER_A) | FLOW_EULER,
    CLIPPED = DDPM | DDIM | INVERSE | CONSISTENCY | HEUN,
    THRESHOLD = DDPM | DDIM | CONSISTENCY | SOLVERS | EDM_DPM,
    ORDERED = SOLVERS | EDM_DPM,
    SHIFTED = SOLVERS | FLOW_EULER,
    ALL = BETAS | EDM | FLOW
};

static const struct {
    const char *name;
    unsigned bit;
} classes[] = {
    {"DDPMScheduler", DDPM},
    {"DDIMScheduler", DDIM},
    {"DDIMInverseScheduler", INVERSE},
    {"PNDMScheduler", PNDM},
    {"LCMScheduler", LCM},
    {"TCDScheduler", TCD},
    {"DPMSolverMultistepScheduler", DPM},
    {"DPMSolverSinglestepScheduler", SINGLE},
    {"UniPCMultistepScheduler", UNIPC},
    {"DEISMultistepScheduler", DEIS},
    {"EulerDiscreteScheduler", EULER},
    {"EulerAncestralDiscreteScheduler", EULER_A},
    {"HeunDiscreteScheduler", HEUN},
    {"KDPM2DiscreteScheduler", KDPM2},
    {"KDPM2AncestralDiscreteScheduler", KDPM2_A},
    {"LMSDiscreteScheduler", LMS},
    {"DPMSolverSDEScheduler", DPM_SDE},
    {"EDMEulerScheduler", EDM_EULER},
    {"EDMDPMSolverMultistepScheduler", EDM_DPM},
    {"FlowMatchEulerDiscreteScheduler", FLOW_EULER},
    {"FlowMatchHeunDiscreteScheduler", FLOW_HEUN},
};

static const char *const beta_names[] = {
    "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp", NULL};
static const char *const prediction_names[] = {"epsilon", "sample", "v_prediction",
                                               "flow_prediction", NULL};
static const char *const variance_names[] = {
    "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log",
    "learned",     "learned_range",   NULL};
static const char *const spacing_names[] = {"leading", "linspace", "trailing", NULL};
static const char *const algorithm_names[] = {"dpmsolver++",   "dpmsolver", "sde-dpmsolver++",
                                              "sde-dpmsolver", "deis",      NULL};
static const char *const solver_names[] = {"midpoint", "heun", "bh1", "bh2", "logrho", NULL};
static const char *const final_names[] = {"zero", "sigma_min", NULL};
static const char *const interpolation_names[] = {"linear", "log_linear", NULL};
static const char *const time_names[] = {"discrete", "continuous", NULL};
static const char *const edm_names[] = {"karras", "exponential", NULL};
static const char *const shift_names[] = {"exponential", "linear", NULL};

#define COUNT(classes, member)                                                                     \
    {                                                                                              \
#member, LGV_SCHEDULER_COUNT, classes, AT(member), NULL                                    \
    }
#define OFFSET(classes, member)                                                                    \
    {                                                                                              \
#member, LGV_SCHEDULER_OFFSET, classes, AT(member), NULL                                   \
    }
#define DOUBLE(classes, member)                                                                    \
    {                                                                                              \
#member, LGV_SCHEDULER_DOUBLE, classes, AT(member), NULL                                   \
    }
#define OPTIONAL(classes, member)                                                                  \
    {                                                                                              \
#member, LGV_SCHEDULER_OPTIONAL, classes, AT(member), NULL                                 \
    }
#define BOOL(classes, member)                                                                      \
    {                                                                                              \
#member, LGV_SCHEDULER_BOOL, classes, AT(member), NULL                                     \
    }
#define ENUM(classes, member, names)                                                               \
    {                                                                                              \
#member, LGV_SCHEDULER_ENUM, classes, AT(member), names                                    \
    }
#define AT(member) offsetof(lgv_scheduler_config, member)
const lgv_scheduler_field lgv_scheduler_fields[] = {
    COUNT(ALL, num_train_timesteps),
    DOUBLE(BETAS, beta_start),
    DOUBLE(BETAS, beta_end),
    ENUM(BETAS, beta_schedule, beta_names),
    {"trained_betas", LGV_SCHEDULER_BETAS, BETAS, AT(trained_betas), NULL},
    BOOL(DDPM | DDIM | INVERSE | CONSISTENCY | DPM | UNIPC | EULER | EULER_A,
         rescale_betas_zero_snr),
    ENUM(BETAS | EDM, prediction_type, prediction_names),
    ENUM(DDPM | DPM | SINGLE, variance_type, variance_names),
    BOOL(CLIPPED, clip_sample),
    DOUBLE(CLIPPED, clip_sample_range),
    BOOL(THRESHOLD, thresholding),
    DOUBLE(THRESHOLD, dynamic_thresholding_ratio),
    DOUBLE(THRESHOLD, sample_max_value),
    ENUM(SPACED, timestep_spacing, spacing_names),
    OFFSET(SPACED, steps_offset),
    BOOL(DDIM | INVERSE | PNDM | CONSISTENCY, set_alpha_to_one),
    BOOL(PNDM, skip_prk_steps),
    COUNT(CONSISTENCY, original_inference_steps),
    DOUBLE(CONSISTENCY, timestep_scaling),
    COUNT(ORDERED, solver_order),
    ENUM(DPM | SINGLE | DEIS | EDM_DPM, algorithm_type, algorithm_names),
    ENUM(ORDERED, solver_type, solver_names),
    BOOL(ORDERED, lower_order_final),
    BOOL(DPM | EDM_DPM, euler_at_final),
    BOOL(SIGMAS, use_karras_sigmas),
    BOOL(SIGMAS, use_exponential_sigmas),
    BOOL(SIGMAS, use_beta_sigmas),
    BOOL(DPM, use_lu_lambdas),
    BOOL(SOLVERS, use_flow_sigmas),
    DOUBLE(SOLVERS, flow_shift),
    ENUM(DPM | SINGLE | UNIPC | EULER | EDM, final_sigmas_type, final_names),
    DOUBLE(DPM | SINGLE, lambda_min_clipped),
    BOOL(SHIFTED, use_dynamic_shifting),
    ENUM(SHIFTED, time_shift_type, shift_names),
    ENUM(EULER, interpolation_type, interpolation_names),
    ENUM(EULER, timestep_type, time_names),
    OPTIONAL(EULER | UNIPC | EDM, sigma_min),
    OPTIONAL(EULER | UNIPC | EDM, sigma_max),
    DOUBLE(EDM, sigma_data),
    DOUBLE(EDM, rho),
    ENUM(EDM, sigma_schedule, edm_names),
    BOOL(UNIPC, predict_x0),
    {"disable_corrector", LGV_SCHEDULER_STEPS, UNIPC, AT(disable_corrector), NULL},
    OPTIONAL(UNIPC | FLOW_EULER, shift_terminal),
    DOUBLE(FLOW, shift),
    DOUBLE(FLOW_EULER, base_shift),
    DOUBLE(FLOW_EULER, max_shift),
    COUNT(FLOW_EULER, base_image_seq_len),
    COUNT(FLOW_EULER, max_image_seq_len),
    BOOL(FLOW_EULER, invert_sigmas),
    BOOL(FLOW_EULER, stochastic_sampling),
};
const int lgv_scheduler_field_count = sizeof lgv_scheduler_fields / sizeof *lgv_scheduler_fields;
_Static_assert(sizeof lgv_scheduler_fields / sizeof *lgv_scheduler_fields <= 64,
               "given has 64 bits");

/* What most classes share. */
static const lgv_scheduler_config defaults = {
    .num_train_timesteps = 1000,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .clip_sample = 1,
    .clip_sample_range = 1.0,
    .dynamic_thresholding_ratio = 0.995,
    .sample_max_value = 1.0,
    .set_alpha_to_one = 1,
    .original_inference_steps = 50,
    .timestep_scaling = 10,
    .solver_order = 2,
    .lower_order_final = 1,
    .flow_shift = 1,
    .lambda_min_clipped = -INFINITY,
    .sigma_data = 0.5,
    .rho = 7,
    .predict_x0 = 1,
    .shift = 1,
    .base_shift = 0.5,
    .max_shift = 1.15,
    .base_image_seq_len = 256,
    .max_image_seq_len = 4096,
};

unsigned lgv_scheduler_class(const char *name)
{
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (!strcmp(name, classes[i].name)) return classes[i].bit;
    return 0;
}

int lgv_scheduler_has(const char *class_name, const char *key)
{
    const unsigned bit = lgv_scheduler_class(class_name);
    for (int i = 0; i < lgv_scheduler_field_count; i++)
        if (!strcmp(lgv_scheduler_fields[i].key, key))
            return (lgv_scheduler_fields[i].classes & bit) != 0;
    return 0;
}

const char *lgv_scheduler_first_class(void)
{
    return classes[0].name;
}

void lgv_scheduler_defaults(unsigned bit, lgv_scheduler_config *cfg)
{
    *cfg = defaults;
    if (bit & (SECOND_ORDER | CONSISTENCY)) {
        cfg->beta_start = 0.00085;
        cfg->beta_end = 0.012;
    }
    if (bit & CONSISTENCY) cfg->beta_schedule = LGV_BETA_SCALED_LINEAR;
    if (bit & (CONSISTENCY | HEUN)) cfg->clip_sample = 0;
    if (bit & (SOLVERS | K)) cfg->timestep_spacing = LGV_SPACING_LINSPACE;
    if (bit & PNDM) cfg->set_alpha_to_one = 0;
    if (bit & SINGLE) cfg->lower_order_final = 0;
    if (bit & UNIPC) cfg->solver_type = LGV_SOLVER_BH2;
    if (bit & DEIS) {
        cfg->algorithm_type = LGV_ALGORITHM_DEIS;
        cfg->solver_type = LGV_SOLVER_LOGRHO;
    }
    if (bit & EDM) {
        cfg->sigma_min = 0.002;
        cfg->sigma_max = 80;
    }
    if (bit & FLOW) cfg->prediction_type = LGV_PREDICT_FLOW;
}

lgv_noise_family lgv_scheduler_family(const lgv_scheduler_config *cfg)
{
    unsigned bit = lgv_scheduler_class(cfg->class_name);
    if (bit & EDM) return LGV_FAMILY_EDM;
    if (bit & FLOW || cfg->prediction_type == LGV_PREDICT_FLOW) return LGV_FAMILY_FLOW;
    return LGV_FAMILY_BETAS;
}

const char *lgv_prediction_name(lgv_prediction prediction)
{
    return (unsigned)prediction <= LGV_PREDICT_FLOW ? prediction_names[prediction] : "unknown";
}

const char *lgv_beta_schedule_name(lgv_beta_schedule beta_schedule)
{
    return (unsigned)beta_schedule <= LGV_BETA_EXP ? beta_names[beta_schedule] : "unknown";
}
