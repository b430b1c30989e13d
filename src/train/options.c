/* options.c - defaults of training, and the options as JSON.
   One table says what is kept in a checkpoint and which changes on resume break "bit for bit". */
#include "options.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

/* ---- defaults ---- */

static void default_i64(int64_t *v, int64_t value)
{
    if (!*v) *v = value;
}

static void default_double(double *v, double value)
{
    if (*v == 0) *v = value;
}

static lgv_status check_count(const char *name, int64_t v, int64_t low, int64_t high,
                              lgv_error *err)
{
    if (v >= low && v <= high) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "%s must be %lld to %lld, is %lld", name, (long long)low,
                    (long long)high, (long long)v);
}

/* In [low, high), or LGV_OFF where `off`. */
static lgv_status check_number(const char *name, double v, double low, double high, bool off,
                               lgv_error *err)
{
    if ((off && v == LGV_OFF) || (v >= low && v < high)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "%s must be at least %g and less than %g, is %g", name,
                    low, high, v);
}

static lgv_status check(const lgv_train_options *o, lgv_error *err)
{
    const int64_t most = INT64_C(1) << 40;
    LGV_TRY(check_count("max_train_steps", o->max_train_steps, 1, most, err));
    LGV_TRY(check_count("train_batch_size", o->train_batch_size, 1, 1 << 20, err));
    LGV_TRY(check_count("gradient_accumulation_steps", o->gradient_accumulation_steps, 1, 1 << 20,
                        err));
    LGV_TRY(check_count("train_batch_size times gradient_accumulation_steps",
                        o->train_batch_size * o->gradient_accumulation_steps, 1, 1 << 24, err));
    LGV_TRY(check_count("lr_warmup_steps", o->lr_warmup_steps, LGV_OFF, most, err));
    LGV_TRY(check_count("lr_schedule_steps", o->lr_schedule_steps, 1, most, err));
    LGV_TRY(check_count("lr_scheduler", o->lr_scheduler, LGV_LR_DEFAULT, LGV_LR_POLYNOMIAL, err));
    LGV_TRY(check_count("task", o->task, LGV_TASK_DEFAULT, LGV_TASK_CLASSIFIER, err));
    LGV_TRY(
        check_count("mixed_precision", o->mixed_precision, LGV_MIXED_DEFAULT, LGV_MIXED_BF16, err));
    LGV_TRY(check_count("checkpointing_steps", o->checkpointing_steps, LGV_OFF, most, err));
    LGV_TRY(check_count("checkpoints_total_limit", o->checkpoints_total_limit, LGV_OFF, most, err));
    LGV_TRY(check_count("sample_count", o->sample_count, LGV_OFF, 1024, err));
    LGV_TRY(check_count("sample_steps", o->sample_steps, 1, 1000000, err));
    LGV_TRY(check_count("eval_steps", o->eval_steps, LGV_OFF, most, err));
    LGV_TRY(check_count("eval_samples", o->eval_samples, 5, 1000000, err));
    LGV_TRY(check_count("eval_inference_steps", o->eval_inference_steps, 1, 1000000, err));
    LGV_TRY(check_count("log_steps", o->log_steps, 1, most, err));
    LGV_TRY(check_count("recompute", o->recompute, 0, 2, err));
    LGV_TRY(check_count("loader_threads", o->loader_threads, 1, 64, err));
    LGV_TRY(check_number("learning_rate", o->learning_rate, 0, 1e6, false, err));
    LGV_TRY(check_number("adam_beta1", o->adam_beta1, 0, 1, true, err));
    LGV_TRY(check_number("adam_beta2", o->adam_beta2, 0, 1, true, err));
    LGV_TRY(check_number("adam_epsilon", o->adam_epsilon, 0, 1e6, true, err));
    LGV_TRY(check_number("adam_weight_decay", o->adam_weight_decay, 0, 1e6, true, err));
    LGV_TRY(check_number("max_grad_norm", o->max_grad_norm, 0, 1e30, true, err));
    LGV_TRY(check_number("max_loss_growth", o->max_loss_growth, 1.1, 1e9, true, err));
    LGV_TRY(check_number("ema_decay", o->ema_decay, 0, 1, true, err));
    LGV_TRY(check_number("class_dropout_prob", o->class_dropout_prob, 0, 1, true, err));
    LGV_TRY(check_number("snr_gamma", o->snr_gamma, 0, 1e30, false, err));
    LGV_TRY(check_number("noise_offset", o->noise_offset, 0, 1e6, false, err));
    LGV_TRY(check_number("lr_num_cycles", o->lr_num_cycles, 0, 1e6, false, err));
    LGV_TRY(check_number("lr_power", o->lr_power, 0, 1e3, false, err));
    return LGV_OK;
}

/* A classifier is smaller than a denoiser, learns in fewer steps and from whole epochs. */
static void classifier_defaults(lgv_train_options *o)
{
    default_i64(&o->max_train_steps, 4000);
    default_double(&o->learning_rate, 1e-3);
    if (!o->lr_scheduler) o->lr_scheduler = LGV_LR_COSINE;
    default_i64(&o->lr_warmup_steps, 100);
    default_double(&o->adam_beta1, 0.9);
    default_double(&o->adam_weight_decay, 0.01);
    default_double(&o->ema_decay, 0.999);
    default_double(&o->max_loss_growth,
                   100); /* a good classifier's loss is near 0, and its noise large beside that */
    o->sample_count = LGV_OFF;
}

lgv_status lgv_train_options_resolve(lgv_train_options *o, const lgv_dataset *data, lgv_error *err)
{
    int side = lgv_dataset_resolution(data);
    default_i64(&o->train_batch_size, side <= 32 ? 32 : side <= 64 ? 16 : 8);
    default_i64(&o->gradient_accumulation_steps, 1);
    LGV_TRY(check_count("num_train_epochs", o->num_train_epochs, 0, INT64_C(1) << 30, err));
    LGV_TRY(check_count("train_batch_size", o->train_batch_size, 1, 1 << 20, err));
    LGV_TRY(check_count("gradient_accumulation_steps", o->gradient_accumulation_steps, 1, 1 << 20,
                        err));
    int64_t batch = o->train_batch_size * o->gradient_accumulation_steps, samples;
    if (o->num_train_epochs && !o->max_train_steps) {
        int64_t count = lgv_dataset_epoch_length(data);
        if (o->rng == LGV_RNG_TORCH && count >= batch) count -= count % batch; /* drop_last */
        if (!lgv_mul_i64(o->num_train_epochs, count, &samples))
            return lgv_fail(err, LGV_ERR_ARGUMENT, "num_train_epochs %lld is too large",
                            (long long)o->num_train_epochs);
        o->max_train_steps = lgv_ceil_div(samples, batch);
    }
    o->num_train_epochs = 0;
    if (o->task == LGV_TASK_CLASSIFIER) classifier_defaults(o);
    if (!o->loss) o->loss = LGV_LOSS_MSE;
    default_i64(&o->max_train_steps, 20000);
    default_double(&o->learning_rate, 1e-4);
    if (!o->lr_scheduler) o->lr_scheduler = LGV_LR_CONSTANT_WITH_WARMUP;
    if (!o->mixed_precision) o->mixed_precision = LGV_MIXED_NO;
    default_i64(&o->lr_warmup_steps, 500);
    default_i64(&o->lr_schedule_steps, o->max_train_steps);
    default_double(&o->adam_beta1, 0.95);
    default_double(&o->adam_beta2, 0.999);
    default_double(&o->adam_epsilon, 1e-8);
    default_double(&o->adam_weight_decay, 1e-6);
    default_double(&o->max_grad_norm, 1);
    default_double(&o->max_loss_growth, 5);
    default_double(&o->ema_decay, 0.9999);
    default_i64(&o->checkpoints_total_limit, 3);
    default_i64(&o->sample_count, 16);
    default_i64(&o->sample_steps, 50);
    default_i64(&o->eval_steps, LGV_OFF);
    default_i64(&o->eval_samples, 500);
    default_i64(&o->eval_inference_steps, 20);
    default_i64(&o->log_steps, 1);
    if (!o->loader_threads) o->loader_threads = 2;
    return check(o, err);
}

/* ---- JSON ---- */

typedef enum kind {
    KIND_INT,
    KIND_I64,
    KIND_U64,
    KIND_SIZE,
    KIND_DOUBLE,
    KIND_SCHEDULER,
    KIND_RNG,
    KIND_PRECISION,
    KIND_TASK,
    KIND_LOSS,
    KIND_TIMESTEPS,
    KIND_COLOUR
} kind;

typedef struct field {
    const char *name;
    kind kind;
    size_t offset;
    bool inexact; /* a change makes the run differ from an unbroken one in ways nobody asked for */
} field;

#define T(name, kind, inexact)                                                                     \
    {                                                                                              \
#name, kind, offsetof(lgv_train_options, name), inexact                                    \
    }
static const field train_fields[] = {
    T(task, KIND_TASK, true),
    T(max_train_steps, KIND_I64, false),
    T(train_batch_size, KIND_I64, true),
    T(gradient_accumulation_steps, KIND_I64, true),
    T(learning_rate, KIND_DOUBLE, false),
    T(lr_scheduler, KIND_SCHEDULER, false),
    T(lr_warmup_steps, KIND_I64, false),
    T(lr_schedule_steps, KIND_I64, false),
    T(lr_num_cycles, KIND_DOUBLE, false),
    T(lr_power, KIND_DOUBLE, false),
    T(adam_beta1, KIND_DOUBLE, false),
    T(adam_beta2, KIND_DOUBLE, false),
    T(adam_epsilon, KIND_DOUBLE, false),
    T(adam_weight_decay, KIND_DOUBLE, false),
    T(max_grad_norm, KIND_DOUBLE, false),
    T(max_loss_growth, KIND_DOUBLE, false),
    T(ema_decay, KIND_DOUBLE, false),
    T(snr_gamma, KIND_DOUBLE, false),
    T(loss, KIND_LOSS, false),
    T(schedule_sampler, KIND_TIMESTEPS, false),
    T(noise_offset, KIND_DOUBLE, false),
    T(class_dropout_prob, KIND_DOUBLE, false),
    T(seed, KIND_U64, true),
    T(rng, KIND_RNG, true),
    T(mixed_precision, KIND_PRECISION, true),
    T(memory_budget, KIND_SIZE, false),
    T(recompute, KIND_INT, false),
    T(checkpointing_steps, KIND_I64, false),
    T(checkpoints_total_limit, KIND_I64, false),
    T(sample_count, KIND_I64, false),
    T(sample_steps, KIND_I64, false),
    T(eval_steps, KIND_I64, false),
    T(eval_samples, KIND_I64, false),
    T(eval_inference_steps, KIND_I64, false),
    T(log_steps, KIND_I64, false),
};
#undef T

#define D(name, kind, inexact)                                                                     \
    {                                                                                              \
#name, kind, offsetof(lgv_dataset_options, name), inexact                                  \
    }
static const field data_fields[] = {
    D(resolution, KIND_INT, true),    D(channels, KIND_INT, true),
    D(center_crop, KIND_INT, true),   D(random_flip, KIND_INT, true),
    D(background, KIND_COLOUR, true), D(validation, KIND_I64, true),
    D(strict, KIND_INT, false),
};
#undef D

static const char *const task_names[] = {"", "diffusion", "classifier"};
static const char *const rng_names[] = {"philox", "torch"};
static const char *const loss_names[] = {"", "mse", "hybrid", "vlb"};
static const char *const sampler_names[] = {"uniform", "loss-second-moment"};

const char *lgv_loss_name(lgv_loss_kind loss)
{
    return loss_names[(unsigned)loss <= LGV_LOSS_VLB ? loss : LGV_LOSS_DEFAULT];
}

lgv_status lgv_loss_parse(const char *name, lgv_loss_kind *out, lgv_error *err)
{
    for (int k = LGV_LOSS_MSE; k <= LGV_LOSS_VLB; k++) {
        if (strcmp(name, loss_names[k])) continue;
        *out = (lgv_loss_kind)k;
        return LGV_OK;
    }
    return lgv_fail(err, LGV_ERR_ARGUMENT, "'%s' is no loss; there are mse, hybrid and vlb", name);
}

const char *lgv_schedule_sampler_name(lgv_schedule_sampler sampler)
{
    return sampler_names[sampler == LGV_TIMESTEPS_LOSS_SECOND_MOMENT];
}

lgv_status lgv_schedule_sampler_parse(const char *name, lgv_schedule_sampler *out, lgv_error *err)
{
    bool second_moment = !strcmp(name, sampler_names[1]) || !strcmp(name, "loss_second_moment");
    if (!second_moment && strcmp(name, sampler_names[0]))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' draws no timesteps; there are uniform and loss-second-moment", name);
    *out = second_moment ? LGV_TIMESTEPS_LOSS_SECOND_MOMENT : LGV_TIMESTEPS_UNIFORM;
    return LGV_OK;
}

static json_t *field_json(const field *f, const void *base)
{
    const char *at = (const char *)base + f->offset;
    switch (f->kind) {
    case KIND_INT: return json_integer(*(const int *)(const void *)at);
    case KIND_I64: return json_integer(*(const int64_t *)(const void *)at);
    case KIND_SIZE: return json_integer((json_int_t) * (const size_t *)(const void *)at);
    case KIND_DOUBLE: return json_real(*(const double *)(const void *)at);
    case KIND_SCHEDULER:
        return json_string(lgv_lr_scheduler_name(*(const lgv_lr_scheduler *)(const void *)at));
    case KIND_RNG:
        return json_string(rng_names[*(const lgv_rng_kind *)(const void *)at == LGV_RNG_TORCH]);
    case KIND_PRECISION:
        return json_string(
            lgv_mixed_precision_name(*(const lgv_mixed_precision *)(const void *)at));
    case KIND_LOSS:
        return json_string(lgv_loss_name(*(const lgv_loss_kind *)(const void *)at));
    case KIND_TIMESTEPS:
        return json_string(
            lgv_schedule_sampler_name(*(const lgv_schedule_sampler *)(const void *)at));
    case KIND_TASK: return json_string(task_names[*(const lgv_task_kind *)(const void *)at]);
    case KIND_U64: { /* JSON integers end at 2^63 - 1 */
        char text[24];
        snprintf(text, sizeof text, "%llu",
                 (unsigned long long)*(const uint64_t *)(const void *)at);
        return json_string(text);
    }
    case KIND_COLOUR:
        return json_pack("[iii]", (unsigned char)at[0], (unsigned char)at[1], (unsigned char)at[2]);
    }
    return NULL;
}

static json_t *fields_json(const field *fields, size_t n, const void *base)
{
    json_t *root = json_object();
    for (size_t i = 0; root && i < n; i++) {
        if (!json_object_set_new(root, fields[i].name, field_json(&fields[i], base))) continue;
        json_decref(root);
        root = NULL;
    }
    return root;
}

/* The stored value into a structure of the same type as base; false when it has the wrong type. */
static bool field_parse(const field *f, const json_t *v, void *base)
{
    void *at = (char *)base + f->offset;
    json_int_t n = json_integer_value(v);
    switch (f->kind) {
    case KIND_INT:
        *(int *)at = (int)n;
        return json_is_integer(v) && n >= INT32_MIN && n <= INT32_MAX;
    case KIND_I64: *(int64_t *)at = n; return json_is_integer(v);
    case KIND_SIZE: *(size_t *)at = (size_t)n; return json_is_integer(v) && n >= 0;
    case KIND_DOUBLE: *(double *)at = json_number_value(v); return json_is_number(v);
    case KIND_SCHEDULER:
        return json_is_string(v) &&
               !lgv_lr_scheduler_parse(json_string_value(v), (lgv_lr_scheduler *)at, NULL);
    case KIND_RNG:
        if (!json_is_string(v)) return false;
        *(lgv_rng_kind *)at =
            strcmp(json_string_value(v), "torch") ? LGV_RNG_PHILOX : LGV_RNG_TORCH;
        return *(lgv_rng_kind *)at == LGV_RNG_TORCH || !strcmp(json_string_value(v), "philox");
    case KIND_PRECISION:
        return json_is_string(v) &&
               !lgv_mixed_precision_parse(json_string_value(v), (lgv_mixed_precision *)at, NULL);
    case KIND_TASK:
        for (int k = LGV_TASK_DIFFUSION; json_is_string(v) && k <= LGV_TASK_CLASSIFIER; k++) {
            if (strcmp(json_string_value(v), task_names[k])) continue;
            *(lgv_task_kind *)at = (lgv_task_kind)k;
            return true;
        }
        return false;
    case KIND_LOSS:
        return json_is_string(v) && !lgv_loss_parse(json_string_value(v), at, NULL);
    case KIND_TIMESTEPS:
        return json_is_string(v) && !lgv_schedule_sampler_parse(json_string_value(v), at, NULL);
    case KIND_U64: {
        const char *s = json_string_value(v);
        uint64_t value = 0;
        if (!s || !*s) return false;
        for (; *s; s++) {
            if (*s < '0' || *s > '9' || __builtin_mul_overflow(value, 10, &value) ||
                __builtin_add_overflow(value, (uint64_t)(*s - '0'), &value))
                return false;
        }
        *(uint64_t *)at = value;
        return true;
    }
    case KIND_COLOUR:
        for (size_t i = 0; i < 3; i++) {
            const json_t *c = json_array_get(v, i);
            if (!json_is_integer(c) || json_integer_value(c) < 0 || json_integer_value(c) > 255)
                return false;
            ((uint8_t *)at)[i] = (uint8_t)json_integer_value(c);
        }
        return true;
    }
    return false;
}

static size_t field_bytes(const field *f)
{
    static const size_t bytes[] = {
        [KIND_INT] = sizeof(int),
        [KIND_I64] = 8,
        [KIND_U64] = 8,
        [KIND_SIZE] = sizeof(size_t),
        [KIND_DOUBLE] = 8,
        [KIND_SCHEDULER] = sizeof(lgv_lr_scheduler),
        [KIND_RNG] = sizeof(lgv_rng_kind),
        [KIND_PRECISION] = sizeof(lgv_mixed_precision),
        [KIND_TASK] = sizeof(lgv_task_kind),
        [KIND_LOSS] = sizeof(lgv_loss_kind),
        [KIND_TIMESTEPS] = sizeof(lgv_schedule_sampler),
        [KIND_COLOUR] = 3,
    };
    return bytes[f->kind];
}

static lgv_status say(const field *f, const void *stored, const void *now,
                      lgv_option_changed changed, void *arg, lgv_error *err)
{
    json_t *was = field_json(f, stored), *is = field_json(f, now);
    char *a = was ? json_dumps(was, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    char *b = is ? json_dumps(is, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    char *line =
        a && b ? lgv_format("%s%s: %s, was %s", f->inexact ? "not bit-exact: " : "", f->name, b, a)
               : NULL;
    json_decref(was);
    json_decref(is);
    free(a);
    free(b);
    if (!line) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the options of the run");
    return changed(arg, line, err);
}

/* scratch: a zeroed structure of the same type. */
static lgv_status merge(const field *fields, size_t n, const json_t *stored, void *scratch,
                        void *base, const char *skip, lgv_option_changed changed, void *arg,
                        lgv_error *err)
{
    static const char zero[16];
    for (size_t i = 0; i < n; i++) {
        const field *f = &fields[i];
        const json_t *v = json_object_get(stored, f->name);
        if (!v || (skip && !strcmp(skip, f->name))) continue;
        if (!field_parse(f, v, scratch))
            return lgv_fail(err, LGV_ERR_FORMAT,
                            "trainer.json: option '%s' has a value of the wrong kind", f->name);
        char *to = (char *)base + f->offset, *from = (char *)scratch + f->offset;
        if (!memcmp(to, zero, field_bytes(f)))
            memcpy(to, from, field_bytes(f));
        else if (memcmp(to, from, field_bytes(f)))
            LGV_TRY(say(f, scratch, base, changed, arg, err));
    }
    return LGV_OK;
}

#define COUNT(a) (sizeof(a) / sizeof *(a))

json_t *lgv_train_options_json(const lgv_train_options *options)
{
    return fields_json(train_fields, COUNT(train_fields), options);
}

json_t *lgv_dataset_options_json(const lgv_dataset_options *options)
{
    return fields_json(data_fields, COUNT(data_fields), options);
}

lgv_status lgv_train_options_merge(const json_t *stored, lgv_train_options *options,
                                   lgv_option_changed changed, void *arg, lgv_error *err)
{
    lgv_train_options scratch = {0};
    if (options->rng == LGV_RNG_TORCH && json_is_string(json_object_get(stored, "rng")) &&
        strcmp(json_string_value(json_object_get(stored, "rng")), "torch"))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the run draws its random numbers from philox; it cannot go on with torch");
    /* A length stated in epochs replaces the stored number of steps. */
    const char *skip =
        options->num_train_epochs && !options->max_train_steps ? "max_train_steps" : NULL;
    return merge(train_fields, COUNT(train_fields), stored, &scratch, options, skip, changed, arg,
                 err);
}

lgv_status lgv_dataset_options_merge(const json_t *stored, lgv_dataset_options *options,
                                     lgv_option_changed changed, void *arg, lgv_error *err)
{
    lgv_dataset_options scratch = {0};
    uint8_t black = options->background_set && !options->background[0] && !options->background[1] &&
                    !options->background[2];
    const char *skip = black ? "background" : NULL; /* three zeros that were stated */
    LGV_TRY(
        merge(data_fields, COUNT(data_fields), stored, &scratch, options, skip, changed, arg, err));
    options->background_set = 1;
    return LGV_OK;
}
