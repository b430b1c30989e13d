/* checkpoint.c - finding a run's checkpoint, checking every byte of it, and going on from it. */
#include "trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "io/json.h"
#include "langevin/safetensors.h"
#include "options.h"

/* ---- names ---- */

char *lgv_checkpoint_folder(const char *output, int64_t step)
{
    return lgv_format("%s/checkpoint-%lld", output, (long long)step);
}

int64_t lgv_checkpoint_named(const char *name)
{
    static const char prefix[] = "checkpoint-";
    if (strncmp(name, prefix, sizeof prefix - 1)) return -1;
    const char *s = name + sizeof prefix - 1;
    int64_t n = 0;
    if (!*s || strlen(s) > 15 || (*s == '0' && s[1])) return -1;
    for (; *s; s++) {
        if (*s < '0' || *s > '9') return -1;
        n = n * 10 + (*s - '0');
    }
    return n;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

lgv_status lgv_checkpoints_list(const char *output, int64_t **step, size_t *count, lgv_error *err)
{
    lgv_names names = {0};
    if (lgv_is_dir(output)) LGV_TRY(lgv_list_dir(output, &names, err));
    int64_t *list = lgv_alloc(names.count + 1, sizeof *list);
    size_t n = 0;
    bool memory = list;
    for (size_t i = 0; memory && i < names.count; i++) {
        int64_t s = lgv_checkpoint_named(names.name[i]);
        if (s < 0) continue;
        char *path = lgv_path_join(output, names.name[i]);
        memory = path;
        if (path && lgv_is_dir(path)) list[n++] = s;
        lgv_free(path);
    }
    lgv_names_free(&names);
    if (!memory) {
        lgv_free(list);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while listing '%s'", output);
    }
    qsort(list, n, sizeof *list, ascending);
    *step = list;
    *count = n;
    return LGV_OK;
}

/* ---- opening ---- */

lgv_status lgv_checkpoint_checksum(const json_t *root, char hex[65], lgv_error *err)
{
    char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for trainer.json");
    lgv_sha256 sha;
    lgv_sha256_init(&sha);
    lgv_sha256_update(&sha, text, strlen(text));
    lgv_sha256_hex(&sha, hex);
    free(text); /* jansson's */
    return LGV_OK;
}

/* Takes the checksum out of root: it covers the rest. (A copy of root without it will not do: jansson's json_copy drops
   what it finds no memory for.) */
static lgv_status check_trainer(const char *folder, json_t *root, lgv_error *err)
{
    char hex[65], want[65];
    const char *stored = json_string_value(json_object_get(root, "checksum"));
    snprintf(want, sizeof want, "%s", stored ? stored : "");
    json_object_del(root, "checksum");
    json_int_t version = json_integer_value(json_object_get(root, "format_version"));
    if (version != 1)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "'%s' has format version %lld; this program knows version 1", folder,
                        (long long)version);
    LGV_TRY(lgv_checkpoint_checksum(root, hex, err));
    if (strcmp(want, hex))
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "'%s' is damaged: trainer.json does not match its checksum", folder);
    return LGV_OK;
}

static bool plain_name(const char *name)
{
    return name[0] && name[0] != '/' && !strstr(name, "..");
}

/* The folder of the network among a checkpoint's files, NULL: there is none. */
static const char *component_of(const json_t *root)
{
    const json_t *files = json_object_get(root, "files");
    const char *component;
    for (int i = 0; (component = lgv_model_components(i)) != NULL; i++) {
        char name[96];
        snprintf(name, sizeof name, "%s/diffusion_pytorch_model.safetensors", component);
        if (json_object_get(files, name)) break;
    }
    return component;
}

static lgv_status check_files(const char *folder, json_t *root, lgv_error *err)
{
    json_t *files = json_object_get(root, "files"), *want;
    const char *name;
    if (!json_object_get(files, "optimizer.safetensors") || !component_of(root))
        return lgv_fail(err, LGV_ERR_FORMAT, "'%s' is damaged: trainer.json lists no weights",
                        folder);
    json_object_foreach(files, name, want)
    {
        if (!plain_name(name))
            return lgv_fail(err, LGV_ERR_FORMAT, "'%s' is damaged: trainer.json: bad file name",
                            folder);
        char hex[65], *path = lgv_path_join(folder, name);
        if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
        lgv_status s = lgv_sha256_file(path, hex, err);
        lgv_free(path);
        if (s) return lgv_fail_prefix(err, s, "'%s' is damaged", folder);
        if (!json_is_string(want) || strcmp(json_string_value(want), hex))
            return lgv_fail(err, LGV_ERR_FORMAT,
                            "'%s' is damaged: %s does not match its SHA-256 in trainer.json",
                            folder, name);
    }
    return LGV_OK;
}

/* The paths stay in the checkpoint's JSON. */
static lgv_status read_sources(lgv_checkpoint *c, const char *folder, lgv_error *err)
{
    const json_t *list = json_object_get(json_object_get(c->root, "data"), "sources"), *item;
    size_t i, n = json_array_size(list);
    c->source = lgv_zalloc(n, sizeof *c->source);
    if (!c->source) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a checkpoint");
    json_array_foreach(list, i, item)
    {
        const char *path = json_string_value(json_object_get(item, "path"));
        c->source[i] = (lgv_data_source){path, json_number_value(json_object_get(item, "weight"))};
        if (!path) n = 0;
    }
    c->sources = (int)n;
    return n ? LGV_OK
             : lgv_fail(err, LGV_ERR_FORMAT, "'%s/trainer.json' names no data sources", folder);
}

static lgv_status checkpoint_open(const char *folder, lgv_checkpoint **out, lgv_error *err)
{
    lgv_checkpoint *c = lgv_zalloc(1, sizeof *c);
    char *path = lgv_path_join(folder, "trainer.json");
    lgv_status s = LGV_OK;
    lgv_json j = {0};
    if (!c || !path || !(c->path = lgv_strdup(folder)))
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a checkpoint");
    if (!s && !lgv_is_file(path))
        s = lgv_fail(err, LGV_ERR_FORMAT, "'%s' is no checkpoint of ours: it has no trainer.json",
                     folder);
    if (!s) s = lgv_json_load(path, &j, err);
    if (!s) s = check_trainer(folder, j.root, err);
    if (!s) s = check_files(folder, j.root, err);
    if (!s) {
        c->root = json_incref(j.root);
        c->component = component_of(c->root);
        c->network = lgv_path_join(folder, c->component);
        c->step = json_integer_value(json_object_get(json_object_get(j.root, "state"), "step"));
        s = c->network ? read_sources(c, folder, err)
                       : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a checkpoint");
    }
    lgv_json_free(&j);
    lgv_free(path);
    if (s) {
        lgv_checkpoint_free(c);
        return s;
    }
    *out = c;
    return LGV_OK;
}

void lgv_checkpoint_free(lgv_checkpoint *c)
{
    if (!c) return;
    for (size_t i = 0; i < c->changes; i++) lgv_free(c->change[i]);
    lgv_free(c->change);
    json_decref(c->root);
    lgv_free(c->path);
    lgv_free(c->network);
    lgv_free(c->source);
    lgv_free(c);
}

/* ---- finding ---- */

static bool saved_healthy(const lgv_checkpoint *c)
{
    lgv_train_state s;
    return !lgv_train_state_parse(json_object_get(c->root, "state"), false, &s, NULL) &&
           lgv_watch_healthy(&s);
}

/* The newest whole checkpoint of `output` before `step`, with `healthy` one saved in good health; NULL:
   none. */
static char *good_before(const char *output, int64_t step, bool healthy)
{
    int64_t *list;
    size_t count;
    char *found = NULL;
    if (lgv_checkpoints_list(output, &list, &count, NULL)) return NULL;
    for (size_t i = count; i-- > 0 && !found;) {
        lgv_checkpoint *c = NULL;
        char *path = list[i] < step ? lgv_checkpoint_folder(output, list[i]) : NULL;
        if (path && !checkpoint_open(path, &c, NULL) && (!healthy || saved_healthy(c)))
            found = lgv_strdup(path);
        lgv_checkpoint_free(c);
        lgv_free(path);
    }
    lgv_free(list);
    return found;
}

char *lgv_checkpoint_last_good(const char *output)
{
    return good_before(output, INT64_MAX, true);
}

/* Opens; when it is damaged, says which earlier one is whole. */
static lgv_status open_or_advise(const char *folder, lgv_checkpoint **out, lgv_error *err)
{
    lgv_error why = {0};
    lgv_status s = checkpoint_open(folder, out, &why);
    if (!s) return LGV_OK;
    char *parent = lgv_strdup(folder), *good = NULL;
    for (size_t n = parent ? strlen(parent) : 0; n > 1 && parent[n - 1] == '/'; n--)
        parent[n - 1] = 0;
    char *slash = parent ? strrchr(parent, '/') : NULL;
    int64_t step = parent ? lgv_checkpoint_named(slash ? slash + 1 : parent) : -1;
    if (step >= 0) {
        if (slash) *slash = 0;
        good = good_before(slash ? parent : ".", step, false);
    }
    if (good)
        s = lgv_fail(err, s, "%s; the newest whole checkpoint before it is '%s'", why.text, good);
    else
        s = lgv_fail(err, s, "%s%s", why.text,
                     step >= 0 ? "; there is no whole checkpoint before it" : "");
    lgv_free(good);
    lgv_free(parent);
    return s;
}

static lgv_status has(const char *folder, const char *name, bool *found, lgv_error *err)
{
    char *path = lgv_path_join(folder, name);
    *found = path && lgv_exists(path);
    if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    lgv_free(path);
    return LGV_OK;
}

static lgv_status fresh_start(const char *output, int overwrite, size_t checkpoints, lgv_error *err)
{
    if (overwrite || !lgv_exists(output)) return LGV_OK;
    if (!lgv_is_dir(output))
        return lgv_fail(err, LGV_ERR_EXISTS, "the output '%s' is a file, not a folder", output);
    bool run = false, pipeline = false, network = false;
    LGV_TRY(has(output, "langevin.json", &run, err));
    LGV_TRY(has(output, "model_index.json", &pipeline, err));
    LGV_TRY(has(output, "config.json", &network, err));
    if (checkpoints || run)
        return lgv_fail(err, LGV_ERR_EXISTS,
                        "'%s' already holds a run: go on with --resume-from-checkpoint latest, "
                        "replace it with --overwrite, "
                        "or choose another folder",
                        output);
    if (pipeline || network)
        return lgv_fail(
            err, LGV_ERR_EXISTS,
            "'%s' already holds a model: choose another folder, or replace it with --overwrite",
            output);
    return LGV_OK;
}

/* A folder, or as in diffusers' scripts the name of one in the output folder. */
static lgv_status find_named(const char *output, const char *from, lgv_checkpoint **out,
                             lgv_error *err)
{
    if (lgv_is_dir(from)) return open_or_advise(from, out, err);
    int64_t *list, newest = -1;
    size_t count;
    LGV_TRY(lgv_checkpoints_list(output, &list, &count, err));
    if (count) newest = list[count - 1];
    lgv_free(list);
    char *inside = lgv_path_join(output, from);
    lgv_status s = LGV_OK;
    if (!inside)
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    else if (lgv_is_dir(inside))
        s = open_or_advise(inside, out, err);
    else if (newest >= 0)
        s = lgv_fail(err, LGV_ERR_IO,
                     "there is no checkpoint '%s'; the newest of '%s' is checkpoint-%lld", from,
                     output, (long long)newest);
    else
        s = lgv_fail(err, LGV_ERR_IO, "there is no checkpoint '%s', and none in '%s'", from,
                     output);
    lgv_free(inside);
    return s;
}

lgv_status lgv_checkpoint_find(const char *output, const char *from, int overwrite,
                               lgv_checkpoint **out, lgv_error *err)
{
    if (!output || !out) return lgv_fail(err, LGV_ERR_ARGUMENT, "a run needs an output folder");
    if (from && strcmp(from, "latest")) return find_named(output, from, out, err);
    int64_t *list;
    size_t count;
    LGV_TRY(lgv_checkpoints_list(output, &list, &count, err));
    lgv_status s = LGV_OK;
    lgv_checkpoint *found = NULL;
    if (!from) {
        s = fresh_start(output, overwrite, count, err);
    } else if (count) {
        char *path = lgv_checkpoint_folder(output, list[count - 1]);
        s = path ? open_or_advise(path, &found, err)
                 : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
        lgv_free(path);
    }
    lgv_free(list);
    if (!s) *out = found;
    return s;
}

/* ---- asking and merging ---- */

const char *lgv_checkpoint_path(const lgv_checkpoint *c)
{
    return c->path;
}
int64_t lgv_checkpoint_step(const lgv_checkpoint *c)
{
    return c->step;
}
const char *lgv_checkpoint_network(const lgv_checkpoint *c)
{
    return c->network;
}
int lgv_checkpoint_sources(const lgv_checkpoint *c, const lgv_data_source **out)
{
    *out = c->source;
    return c->sources;
}
int lgv_checkpoint_changes(const lgv_checkpoint *c)
{
    return (int)c->changes;
}
const char *lgv_checkpoint_change_at(const lgv_checkpoint *c, int i)
{
    return i >= 0 && (size_t)i < c->changes ? c->change[i] : NULL;
}

lgv_status lgv_checkpoint_scheduler(const lgv_checkpoint *c, lgv_scheduler_config *out,
                                    lgv_error *err)
{
    char *path = lgv_path_join(c->path, "scheduler/scheduler_config.json");
    if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    lgv_status s = lgv_scheduler_config_load(path, out, err);
    lgv_free(path);
    return s;
}

static lgv_status add_change(void *arg, char *line, lgv_error *err)
{
    lgv_checkpoint *c = arg;
    lgv_status s =
        lgv_grow(&c->change, &c->change_capacity, c->changes + 1, sizeof *c->change, err);
    if (s)
        lgv_free(line);
    else
        c->change[c->changes++] = line;
    return s;
}

lgv_status lgv_checkpoint_merge(lgv_checkpoint *c, lgv_train_options *options,
                                lgv_dataset_options *data, lgv_error *err)
{
    const json_t *root = c->root;
    LGV_TRY(lgv_train_options_merge(json_object_get(root, "options"), options, add_change, c, err));
    return lgv_dataset_options_merge(json_object_get(json_object_get(root, "data"), "options"),
                                     data, add_change, c, err);
}

/* ---- restoring ---- */

static lgv_status restore_moment(const lgv_trainer *t, const lgv_safetensors *f, const char *set,
                                 int i, float *scratch, lgv_error *err)
{
    int rank, frozen;
    int64_t dim[LGV_MAX_RANK];
    const char *name = lgv_store_at(t->store, i, &rank, dim, &frozen);
    if (frozen) return LGV_OK;
    char *full = lgv_format("%s.%s", set, name);
    const lgv_tensor_info *tensor = full ? lgv_safetensors_find(f, full) : NULL;
    bool same = tensor && tensor->rank == rank && tensor->dtype == LGV_F32;
    for (int k = 0; same && k < rank; k++) same = tensor->dim[k] == dim[k];
    lgv_status s = LGV_OK;
    if (!full)
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the optimizer's state");
    else if (!same)
        s = lgv_fail(err, LGV_ERR_FORMAT,
                     "optimizer.safetensors: '%s' is missing or has another shape", full);
    if (!s) s = lgv_tensor_to_f32(tensor, scratch, err);
    if (!s) s = lgv_store_write(t->store, set, i, scratch, tensor->count, err);
    lgv_free(full);
    return s;
}

/* The losses that importance sampling goes by; a run that did not keep them starts to. */
static lgv_status restore_history(lgv_trainer *t, const lgv_safetensors *f, lgv_error *err)
{
    const lgv_tensor_info *tensor = lgv_safetensors_find(f, "schedule_sampler.history");
    if (!t->importance) return LGV_OK;
    if (!tensor)
        return lgv_trainer_note(t, err, "no losses of single timesteps were kept: timesteps are "
                                        "drawn uniformly until there are ten of each");
    if (tensor->dtype != LGV_F32 || tensor->rank != 2 || tensor->dim[0] != t->importance->T ||
        tensor->dim[1] != LGV_LOSS_HISTORY)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "optimizer.safetensors: 'schedule_sampler.history' must be f32 [%lld,%d]",
                        (long long)t->importance->T, LGV_LOSS_HISTORY);
    return lgv_tensor_to_f32(tensor, t->importance->history, err);
}

static lgv_status restore_optimizer(const lgv_checkpoint *c, lgv_trainer *t, lgv_error *err)
{
    char *path = lgv_path_join(c->path, "optimizer.safetensors");
    float *scratch = lgv_alloc((size_t)lgv_store_parameters(t->store), sizeof *scratch);
    lgv_safetensors *f = NULL;
    lgv_status s = path && scratch
                       ? LGV_OK
                       : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the optimizer's state");
    if (!s) s = lgv_safetensors_open(path, &f, err);
    for (int i = 0; !s && i < lgv_store_count(t->store); i++) {
        s = restore_moment(t, f, "exp_avg", i, scratch, err);
        if (!s) s = restore_moment(t, f, "exp_avg_sq", i, scratch, err);
    }
    if (!s) s = restore_history(t, f, err);
    lgv_safetensors_close(f);
    lgv_free(scratch);
    lgv_free(path);
    return s;
}

static lgv_status restore_ema(const lgv_checkpoint *c, lgv_trainer *t, lgv_error *err)
{
    if (!t->ema) return LGV_OK;
    char *path = lgv_format("%s/%s_ema", c->path, c->component);
    if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    lgv_status s;
    if (lgv_exists(path)) {
        s = lgv_model_load_weights_from(t->model, t->store, "ema", path, err);
    } else { /* switched on now */
        s = lgv_trainer_note(t, err, "the moving average starts at step %lld", (long long)c->step);
        if (!s) s = lgv_store_copy(t->store, "weight", "ema", err);
    }
    lgv_free(path);
    return s;
}

static lgv_status compare_data(const lgv_checkpoint *c, lgv_trainer *t, lgv_error *err)
{
    const char *was =
        json_string_value(json_object_get(json_object_get(c->root, "data"), "fingerprint"));
    if (was && !strcmp(was, lgv_dataset_fingerprint(t->data))) return LGV_OK;
    if (!t->options.allow_data_change)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "the pictures in '%s' are not those the run was started with; go on all the same with "
            "--allow-data-change",
            lgv_dataset_path(t->data));
    return lgv_trainer_note(t, err, "not bit-exact: the pictures have changed");
}

/* What the bits of a step depend on besides options. */
static lgv_status compare_machine(const lgv_checkpoint *c, lgv_trainer *t, lgv_error *err)
{
    const char *level = json_string_value(json_object_get(c->root, "level"));
    const char *plan = json_string_value(json_object_get(c->root, "plan"));
    const char *version = json_string_value(json_object_get(c->root, "langevin_version"));
    char digest[17];
    lgv_plan_digest(t->train, digest);
    if (!version || strcmp(version, LGV_VERSION))
        LGV_TRY(lgv_trainer_note(t, err,
                                 "not bit-exact: the checkpoint is of version %s, this is %s",
                                 version ? version : "unknown", LGV_VERSION));
    if (!level || strcmp(level, lgv_device_name(t->device)))
        return lgv_trainer_note(t, err, "not bit-exact: the run was computed on %s, this is %s",
                                level ? level : "unknown", lgv_device_name(t->device));
    if (!plan || strcmp(plan, digest))
        return lgv_trainer_note(
            t, err, "not bit-exact: other kernels or shapes than before (plan %s, was %s)", digest,
            plan ? plan : "unknown");
    return LGV_OK;
}

static lgv_status compare_schedule(const lgv_checkpoint *c, lgv_trainer *t, lgv_error *err)
{
    lgv_scheduler_config was;
    LGV_TRY(lgv_checkpoint_scheduler(c, &was, err));
    lgv_schedule *s = NULL;
    lgv_status status = lgv_schedule_new(&was, &s, err);
    lgv_scheduler_config_clear(&was);
    if (status) return status;
    bool same = s->T == t->schedule->T && s->prediction == t->schedule->prediction &&
                s->family == t->schedule->family && s->shift == t->schedule->shift &&
                s->sigma_data == t->schedule->sigma_data &&
                !memcmp(s->betas, t->schedule->betas, (size_t)s->T * sizeof *s->betas);
    lgv_schedule_free(s);
    return same ? LGV_OK
                : lgv_trainer_note(
                      t, err,
                      "not bit-exact: the noise schedule or the prediction type has changed");
}

/* Losses before and after can be compared only when their weights are the same. */
static bool same_weighting(const lgv_checkpoint *c, const lgv_trainer *t)
{
    const json_t *options = json_object_get(c->root, "options");
    const char *loss = json_string_value(json_object_get(options, "loss"));
    return json_number_value(json_object_get(options, "snr_gamma")) == t->options.snr_gamma &&
           (!loss || !strcmp(loss, lgv_loss_name(t->options.loss)));
}

lgv_status lgv_checkpoint_restore(const lgv_checkpoint *c, lgv_trainer *t, lgv_error *err)
{
    bool torch = t->options.rng == LGV_RNG_TORCH;
    size_t notes = t->notes;
    LGV_TRY(compare_data(c, t, err));
    LGV_TRY(compare_schedule(c, t, err));
    bool other_loss = t->notes != notes || !same_weighting(c, t);
    LGV_TRY(compare_machine(c, t, err));
    LGV_TRY(lgv_train_state_parse(json_object_get(c->root, "state"), torch, &t->state, err));
    if (other_loss) t->state.watch = (lgv_loss_watch){0};
    LGV_TRY(lgv_model_load_weights_from(t->model, t->store, "weight", c->network, err));
    LGV_TRY(restore_ema(c, t, err));
    LGV_TRY(restore_optimizer(c, t, err));
    if (!(t->last_saved = lgv_strdup(c->path)) ||
        (saved_healthy(c) && !(t->last_checkpoint = lgv_strdup(c->path))))
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    t->saved = t->state.step;
    return LGV_OK;
}
