/* custom_network.c - a network of one's own from the graph API, trained to remove noise and then used to draw: two
   convolutions with an embedding of t between them, on pictures 8x8 with one bright square each.
   custom_network [STEPS] */
#include <langevin/langevin.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 16, SIDE = 8, PIXELS = SIDE * SIDE, WIDTH = 32 };

/* A 3x3 convolution "name" from `from` to `to` channels: PyTorch's layout [to,from,3,3]. */
static lgv_id conv3(lgv_graph *g, const char *name, lgv_id x, int64_t from, int64_t to)
{
    const int64_t dim[] = {to, from, 3, 3};
    const lgv_conv_attr same = {1, {1, 1, 1, 1}};
    lgv_graph_push(g, "%s", name);
    lgv_id w = lgv_param(g, "weight", 4, dim), bias = lgv_param(g, "bias", 1, dim);
    lgv_graph_pop(g);
    return lgv_conv2d(g, x, w, bias, same);
}

/* x[N,8,8,1], t[N] -> the noise in x, [N,8,8,1] */
static lgv_id network(lgv_graph *g, lgv_id x, lgv_id t)
{
    const int64_t dim[] = {WIDTH, WIDTH};
    lgv_id h = lgv_act(g, conv3(g, "in", x, 1, WIDTH), LGV_ACT_SILU);
    lgv_id e = lgv_timestep_embedding(g, t, WIDTH, 1, 0);
    e = lgv_linear(g, e, lgv_param(g, "time.weight", 2, dim), lgv_param(g, "time.bias", 1, dim));
    h = lgv_act(g, conv3(g, "middle", lgv_add_row(g, h, e), WIDTH, WIDTH), LGV_ACT_SILU);
    return conv3(g, "out", h, WIDTH, 1);
}

static lgv_id coef(lgv_graph *g, int k)
{
    return lgv_step_row(g, N, LGV_FIELD_COEF + k);
}

/* Loss and gradients: x_t = a*x0 + b*noise with the row's coefficients (step.h), answer against the noise. */
static lgv_status build_training(lgv_graph *g, lgv_error *err)
{
    const int64_t dim[] = {N, SIDE, SIDE, 1};
    lgv_id x0 = lgv_input(g, "x0", LGV_F32, 4, dim);
    lgv_id noise = lgv_random_normal(g, 4, dim, lgv_rng_stream("noise"));
    lgv_id x = lgv_row_axpby(g, x0, noise, coef(g, LGV_TRAIN_X0), coef(g, LGV_TRAIN_NOISE));
    lgv_id rows = lgv_mse_rows(g, network(g, x, lgv_step_row(g, N, LGV_FIELD_T)), noise);
    lgv_id loss = lgv_weighted_sum(g, rows, lgv_step_row(g, N, LGV_FIELD_WEIGHT));
    lgv_graph_output(g, loss, "loss");
    return lgv_graph_grad_params(g, loss, "grad", err);
}

static void build_sampling(lgv_graph *g)
{
    const int64_t dim[] = {N, SIDE, SIDE, 1};
    lgv_id x = lgv_input(g, "x", LGV_F32, 4, dim);
    lgv_id answer = network(g, x, lgv_step_row(g, N, LGV_FIELD_T));
    lgv_graph_output(g, lgv_sampler_step(g, x, answer, LGV_NONE, LGV_NONE), "next");
}

/* Weights: normal with variance 1/fan_in; biases stay zero. */
static lgv_status init(lgv_store *store, lgv_error *err)
{
    lgv_status status = LGV_OK;
    for (int i = 0; i < lgv_store_count(store) && !status; i++) {
        int rank;
        int64_t dim[LGV_MAX_RANK];
        const char *name = lgv_store_at(store, i, &rank, dim, NULL);
        const int64_t fan_in = dim[1] * dim[2] * dim[3], n = dim[0] * fan_in;
        float data[WIDTH * WIDTH * 9];
        const lgv_rng_key key = {.seed = 1, .stream = lgv_rng_stream(name)};
        if (rank == 1) continue;
        lgv_rng_normal(&key, 0, n, data);
        for (int64_t k = 0; k < n; k++) data[k] /= sqrtf((float)fan_in);
        status = lgv_store_write(store, "weight", i, data, n, err);
    }
    return status;
}

/* Pictures of -1 with a 3x3 square of 1, a timestep for each, and what the update wants to know. */
static void draw_batch(float *x0, lgv_step *step, const lgv_schedule *schedule, int n)
{
    const double beta1 = 0.9, beta2 = 0.999;
    const lgv_rng_key key = {.seed = 2, .stream = lgv_rng_stream("batch"), .step = (uint64_t)n};
    for (int i = 0; i < N * PIXELS; i++) x0[i] = -1;
    for (int i = 0; i < N; i++) {
        int64_t top = (int64_t)lgv_rng_below(&key, 3 * (uint64_t)i, SIDE - 2);
        int64_t left = (int64_t)lgv_rng_below(&key, 3 * (uint64_t)i + 1, SIDE - 2);
        int64_t t = (int64_t)lgv_rng_below(&key, 3 * (uint64_t)i + 2, (uint64_t)schedule->T);
        for (int64_t p = 0; p < 9; p++) x0[i * PIXELS + (top + p / 3) * SIDE + left + p % 3] = 1;
        lgv_row *row = &step->row[i];
        row->seed = 3;
        row->sample = (uint64_t)i;
        row->step = (uint64_t)n;
        row->t = (float)t;
        row->weight = 1.0f / N;
        lgv_schedule_noise_coef(schedule, t, &row->coef[LGV_TRAIN_X0], &row->coef[LGV_TRAIN_NOISE]);
    }
    step->scalar[LGV_SCALAR_LR] = 2e-3;
    step->scalar[LGV_SCALAR_BETA1] = beta1;
    step->scalar[LGV_SCALAR_BETA2] = beta2;
    step->scalar[LGV_SCALAR_EPS] = 1e-8;
    step->scalar[LGV_SCALAR_BIAS1] = 1 - pow(beta1, n + 1);
    step->scalar[LGV_SCALAR_BIAS2] = 1 - pow(beta2, n + 1);
    step->scalar[LGV_SCALAR_MAX_NORM] = 1;
}

static lgv_status train(lgv_plan *plan, const lgv_schedule *schedule, int steps, lgv_error *err)
{
    float x0[N * PIXELS], loss = 0;
    double sum = 0, first = 0;
    lgv_status status = LGV_OK;
    for (int n = 0; n < steps && !status; n++) {
        draw_batch(x0, lgv_plan_step(plan), schedule, n);
        status = lgv_plan_write(plan, "x0", x0, N * PIXELS, err);
        if (!status) status = lgv_plan_run(plan, "forward_backward", err);
        if (!status) status = lgv_plan_read(plan, "loss", &loss, 1, err);
        if (!status) status = lgv_plan_run(plan, "update", err);
        sum += (double)loss;
        if (n % 20 != 19) continue;
        printf("step %d: loss %.3f\n", n + 1, sum / 20);
        if (n == 19) first = sum;
        if (n + 1 == steps && !(sum < 0.7 * first)) {
            snprintf(err->text, sizeof err->text, "the loss does not fall");
            status = LGV_ERR_NUMERIC;
        }
        sum = 0;
    }
    return status;
}

/* DDIM with the network as it is now; prints one picture. */
static lgv_status sample(lgv_plan *plan, const lgv_scheduler_config *config, lgv_error *err)
{
    lgv_sampler *sampler = NULL;
    const lgv_sampler_options options = {.sampler = "ddim", .num_inference_steps = 20};
    const lgv_rng_key key = {.seed = 4, .stream = lgv_rng_stream("first x")};
    float x[N * PIXELS];
    lgv_status status = lgv_sampler_new(config, &options, &sampler, err);
    lgv_rng_normal(&key, 0, N * PIXELS, x);
    for (int64_t i = 0; !status && i < lgv_sampler_steps(sampler); i++) {
        for (int n = 0; n < N; n++)
            lgv_step_coef_row(lgv_sampler_coef(sampler, i), &lgv_plan_step(plan)->row[n]);
        status = lgv_plan_write(plan, "x", x, N * PIXELS, err);
        if (!status) status = lgv_plan_run(plan, NULL, err);
        if (!status) status = lgv_plan_read(plan, "next", x, N * PIXELS, err);
    }
    for (int i = 0; i < PIXELS && !status; i++)
        printf("%s%s", x[i] > 0 ? "##" : "..", i % SIDE == SIDE - 1 ? "\n" : "");
    lgv_sampler_free(sampler);
    return status;
}

static lgv_status make_plans(lgv_store *store, lgv_plan **training, lgv_plan **sampling,
                             lgv_error *err)
{
    static const char *const sets[] = {"weight", "grad", "exp_avg", "exp_avg_sq"};
    lgv_graph *g[3] = {lgv_graph_new(), lgv_graph_new(), lgv_graph_new()};
    lgv_status status = g[0] && g[1] && g[2] ? build_training(g[0], err) : LGV_ERR_MEMORY;
    const lgv_program programs[] = {{"forward_backward", g[0]}, {"update", g[1]}, {"sample", g[2]}};
    if (!status) lgv_graph_output(g[1], lgv_adamw(g[1], 0), "norm");
    if (!status) build_sampling(g[2]);
    if (!status) status = lgv_store_declare(store, g[0], err);
    for (int i = 0; i < 4 && !status; i++) status = lgv_store_add_set(store, sets[i], err);
    if (!status) status = init(store, err);
    if (!status) status = lgv_plan_new(store, 2, programs, NULL, training, err);
    if (!status) status = lgv_plan_new(store, 1, programs + 2, NULL, sampling, err);
    for (int i = 0; i < 3; i++) lgv_graph_free(g[i]); /* plans outlive graphs */
    return status;
}

int main(int argc, char **argv)
{
    lgv_device *device = NULL;
    lgv_store *store = NULL;
    lgv_plan *training = NULL, *sampling = NULL;
    lgv_scheduler_config config;
    lgv_schedule *schedule = NULL;
    lgv_error err = {LGV_OK, ""};
    memset(&config, 0, sizeof config);
    lgv_status status = lgv_device_new("cpu", 0, &device, &err);
    if (!status) status = lgv_store_new(device, &store, &err);
    if (!status) status = make_plans(store, &training, &sampling, &err);
    if (!status) status = lgv_scheduler_config_init(&config, "DDPMScheduler", &err);
    if (!status) status = lgv_schedule_new(&config, &schedule, &err);
    if (!status) status = train(training, schedule, argc > 1 ? atoi(argv[1]) : 1000, &err);
    if (!status) status = sample(sampling, &config, &err);
    lgv_schedule_free(schedule);
    lgv_scheduler_config_clear(&config);
    lgv_plan_free(training);
    lgv_plan_free(sampling);
    lgv_store_free(store);
    lgv_device_free(device);
    if (status) fprintf(stderr, "custom_network: %s\n", err.text);
    return status ? 1 : 0;
}
