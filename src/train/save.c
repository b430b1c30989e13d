/* save.c - writing a checkpoint.
   Everything goes to OUTPUT/.tmp-N, is synced, and appears as checkpoint-N by one rename: a kill at
   any moment leaves either no checkpoint-N or a whole one. Old ones go only after that. */
#define _GNU_SOURCE
#include "trainer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "io/json.h"
#include "langevin/safetensors.h"
#include "options.h"

/* ---- optimizer.safetensors ---- */

typedef struct moment {
    const lgv_store *store;
    const char *set;
    int buffer;
    int64_t count;
} moment;

static lgv_status read_moment(void *arg, void *dst, size_t bytes, lgv_error *err)
{
    const moment *m = arg;
    return lgv_store_read(m->store, m->set, m->buffer, dst, m->count, err);
}

static lgv_status add_moment(lgv_safetensors_writer *w, const lgv_store *store, const char *set,
                             int i, moment *m, lgv_error *err)
{
    int rank, frozen;
    int64_t dim[LGV_MAX_RANK];
    const char *name = lgv_store_at(store, i, &rank, dim, &frozen);
    if (frozen) return LGV_OK;
    *m = (moment){store, set, i, 1};
    for (int k = 0; k < rank; k++) m->count *= dim[k];
    char *full = lgv_format("%s.%s", set, name);
    if (!full) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the optimizer's state");
    lgv_status s = lgv_safetensors_add_source(w, full, LGV_F32, rank, dim, read_moment, m, err);
    lgv_free(full);
    return s;
}

/* The losses that importance sampling goes by. */
static lgv_status add_history(lgv_safetensors_writer *w, const lgv_importance *s, lgv_error *err)
{
    const int64_t dim[2] = {s ? s->T : 0, LGV_LOSS_HISTORY};
    if (!s) return LGV_OK;
    return lgv_safetensors_add(w, "schedule_sampler.history", LGV_F32, 2, dim, s->history, err);
}

static lgv_status save_optimizer(const lgv_trainer *t, const char *path, lgv_error *err)
{
    int n = lgv_store_count(t->store);
    moment *moments = lgv_alloc((size_t)n * 2, sizeof *moments);
    lgv_safetensors_writer *w = NULL;
    lgv_status s =
        moments ? LGV_OK : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the optimizer's state");
    if (!s) s = lgv_safetensors_writer_new(&w, err);
    for (int i = 0; i < n && !s; i++) s = add_moment(w, t->store, "exp_avg", i, &moments[i], err);
    for (int i = 0; i < n && !s; i++)
        s = add_moment(w, t->store, "exp_avg_sq", i, &moments[n + i], err);
    if (!s) s = add_history(w, t->importance, err);
    if (!s) s = lgv_safetensors_write(w, path, err);
    lgv_safetensors_writer_free(w);
    lgv_free(moments);
    return s;
}

/* ---- trainer.json ---- */

/* Distinct "op: kernel" of the training plan: what decides the bits besides the level. */
static json_t *kernel_list(const lgv_plan *plan)
{
    json_t *set = json_object(), *list = json_array();
    for (int i = 0; set && list && i < lgv_plan_nodes(plan); i++) {
        lgv_node_info node;
        char text[160];
        lgv_plan_node_at(plan, i, &node);
        snprintf(text, sizeof text, "%s: %s", node.op, node.kernel);
        if (json_object_get(set, text)) continue;
        if (json_object_set_new(set, text, json_true()) ||
            json_array_append_new(list, json_string(text))) {
            json_decref(list);
            list = NULL;
        }
    }
    if (!set) json_decref(list);
    json_decref(set);
    return set ? list : NULL;
}

static json_t *broken_list(lgv_dataset *data)
{
    json_t *list = json_array();
    int64_t n = lgv_dataset_skipped(data);
    for (int64_t i = 0; list && i < n && i < 1000; i++) {
        json_t *text =
            lgv_json_text_or(lgv_dataset_skipped_at(data, i), "a picture whose name is not UTF-8");
        if (!json_array_append_new(list, text)) continue;
        json_decref(list);
        list = NULL;
    }
    return list;
}

static json_t *sources_json(const lgv_dataset *data)
{
    const lgv_data_source *source;
    int n = lgv_dataset_sources(data, &source);
    json_t *list = json_array();
    for (int i = 0; list && i < n; i++) {
        if (!json_array_append_new(
                list, json_pack("{s:s, s:f}", "path", source[i].path, "weight", source[i].weight)))
            continue;
        json_decref(list);
        list = NULL;
    }
    return list;
}

static json_t *data_json(lgv_dataset *data)
{
    lgv_dataset_options o;
    lgv_dataset_settings(data, &o);
    return json_pack("{s:o, s:s, s:I, s:o, s:o}", "sources", sources_json(data), "fingerprint",
                     lgv_dataset_fingerprint(data), "pictures", (json_int_t)lgv_dataset_count(data),
                     "options", lgv_dataset_options_json(&o), "broken", broken_list(data));
}

static lgv_status add_hash(json_t *files, const char *folder, const char *name, lgv_error *err)
{
    char hex[65], *path = lgv_path_join(folder, name);
    lgv_status s = path ? lgv_sha256_file(path, hex, err)
                        : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    if (!s && json_object_set_new(files, name, json_string(hex)))
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for trainer.json");
    lgv_free(path);
    return s;
}

static const char weights_file[] = "diffusion_pytorch_model.safetensors";

/* The name of the folder of the network in output and checkpoints, with averages that of those. */
static const char *network_folder(const lgv_trainer *t, bool averages, char name[48])
{
    snprintf(name, 48, "%s%s", lgv_model_describe(t->model)->component, averages ? "_ema" : "");
    return name;
}

static lgv_status hash_network(const lgv_trainer *t, bool averages, const char *folder,
                               json_t *files, lgv_error *err)
{
    char network[48], name[128];
    network_folder(t, averages, network);
    snprintf(name, sizeof name, "%s/config.json", network);
    LGV_TRY(add_hash(files, folder, name, err));
    snprintf(name, sizeof name, "%s/%s", network, weights_file);
    return add_hash(files, folder, name, err);
}

static lgv_status hash_files(const lgv_trainer *t, const char *folder, json_t *files,
                             lgv_error *err)
{
    LGV_TRY(hash_network(t, false, folder, files, err));
    LGV_TRY(add_hash(files, folder, "optimizer.safetensors", err));
    LGV_TRY(add_hash(files, folder, "scheduler/scheduler_config.json", err));
    if (t->task->pipeline) LGV_TRY(add_hash(files, folder, "model_index.json", err));
    return t->ema ? hash_network(t, true, folder, files, err) : LGV_OK;
}

static lgv_status save_trainer(lgv_trainer *t, const char *folder, lgv_error *err)
{
    char digest[17], hex[65];
    lgv_plan_digest(t->train, digest);
    json_t *files = json_object();
    if (!files) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for trainer.json");
    lgv_status s = hash_files(t, folder, files, err);
    if (s) {
        json_decref(files);
        return s;
    }
    json_t *root = json_pack("{s:i, s:s, s:o, s:o, s:o, s:s, s:s, s:o, s:o}", "format_version", 1,
                             "langevin_version", LGV_VERSION, "state", lgv_train_state_json(t),
                             "options", lgv_train_options_json(&t->options), "data",
                             data_json(t->data), "level", lgv_device_name(t->device), "plan",
                             digest, "kernels", kernel_list(t->train), "files", files);
    if (!root) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for trainer.json");
    char *path = lgv_path_join(folder, "trainer.json");
    s = path ? lgv_checkpoint_checksum(root, hex, err)
             : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    if (!s && json_object_set_new(root, "checksum", json_string(hex)))
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for trainer.json");
    if (!s) s = lgv_json_save(path, root, false, err);
    lgv_free(path);
    json_decref(root);
    return s;
}

/* ---- the folder ---- */

static lgv_status save_network(const lgv_trainer *t, const char *set, const char *folder,
                               bool averages, lgv_error *err)
{
    char name[48], *path = lgv_path_join(folder, network_folder(t, averages, name));
    if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    lgv_status s = lgv_make_dir(path, err);
    if (!s) s = lgv_model_save(t->model, t->store, set, path, err);
    if (!s) s = lgv_sync_dir(path, err);
    lgv_free(path);
    return s;
}

static lgv_status fill_folder(lgv_trainer *t, const char *folder, lgv_error *err)
{
    LGV_TRY(lgv_make_dir(folder, err));
    LGV_TRY(save_network(t, "weight", folder, false, err));
    if (t->ema) LGV_TRY(save_network(t, "ema", folder, true, err));
    LGV_TRY(lgv_output_write_index(t, folder, err));
    char *path = lgv_path_join(folder, "optimizer.safetensors");
    lgv_status s = path ? save_optimizer(t, path, err)
                        : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    lgv_free(path);
    if (!s) s = save_trainer(t, folder, err);
    return s ? s : lgv_sync_dir(folder, err);
}

/* Puts the folder `from` under the name `to`. Where that exists (the same step saved again) the two
   change places at once, so that there is never a moment without a whole checkpoint. */
static lgv_status publish(const char *from, const char *to, lgv_error *err)
{
    if (!lgv_exists(to)) return lgv_rename(from, to, err);
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) == 0)
        return lgv_remove_tree(from, err);
    LGV_TRY(lgv_output_remove(to, err)); /* a file system without that call */
    return lgv_rename(from, to, err);
}

static lgv_status delete_checkpoint(const char *output, int64_t step, lgv_error *err)
{
    char *path = lgv_checkpoint_folder(output, step);
    lgv_status s = path ? lgv_output_remove(path, err)
                        : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    lgv_free(path);
    return s;
}

static lgv_status rotate(const lgv_trainer *t, lgv_error *err)
{
    int64_t limit = t->options.checkpoints_total_limit, *step;
    size_t count;
    if (limit == LGV_OFF) return LGV_OK;
    LGV_TRY(lgv_checkpoints_list(t->output, &step, &count, err));
    lgv_status s = LGV_OK;
    size_t keep = (size_t)limit;
    for (size_t i = 0; i < count && count - i > keep && !s; i++)
        if (step[i] != t->state.step) s = delete_checkpoint(t->output, step[i], err);
    lgv_free(step);
    return s;
}

/* OUTPUT itself is a pipeline with the averaged weights. */
static lgv_status refresh(lgv_trainer *t, lgv_error *err)
{
    if (t->refreshed == t->state.step) return LGV_OK;
    lgv_status s = save_network(t, t->ema ? "ema" : "weight", t->output, false, err);
    if (s) return lgv_fail_prefix(err, s, "the model in '%s' was not refreshed", t->output);
    t->refreshed = t->state.step;
    return LGV_OK;
}

/* A kill between checkpoint and refresh leaves the older model in OUTPUT, another program perhaps a damaged
   one: what lies there must be what the checkpoint recorded. */
lgv_status lgv_trainer_repair(lgv_trainer *t, const lgv_checkpoint *from, lgv_error *err)
{
    char hex[65], text[48],
        *name = lgv_format("%s/%s", network_folder(t, t->ema, text), weights_file),
        *path = lgv_format("%s/%s/%s", t->output, network_folder(t, false, text), weights_file);
    const char *want =
        name ? json_string_value(json_object_get(json_object_get(from->root, "files"), name))
             : NULL;
    lgv_status s =
        name && path ? LGV_OK : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    if (!s && want && !lgv_sha256_file(path, hex, NULL) && !strcmp(hex, want))
        t->refreshed = t->state.step;
    if (!s && lgv_watch_healthy(&t->state)) s = refresh(t, err);
    lgv_free(name);
    lgv_free(path);
    return s;
}

/* ---- bad weights are not written ---- */

static bool all_finite(const float *x, int64_t n)
{
    float sum = 0; /* of x * 0: NaN as soon as one is not finite */
    for (int64_t i = 0; i < n; i++) sum += x[i] * 0;
    return sum == 0;
}

static lgv_status check_finite(const lgv_trainer *t, lgv_error *err)
{
    const char *set[] = {"weight", "ema"};
    float *x = lgv_alloc((size_t)lgv_store_parameters(t->store), sizeof *x);
    if (!x) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while checking the weights");
    lgv_status s = LGV_OK;
    for (int k = 0; k < (t->ema ? 2 : 1); k++) {
        for (int i = 0; i < lgv_store_count(t->store) && !s; i++) {
            int rank, frozen;
            int64_t dim[LGV_MAX_RANK], n = 1;
            const char *name = lgv_store_at(t->store, i, &rank, dim, &frozen);
            for (int d = 0; d < rank; d++) n *= dim[d];
            s = lgv_store_read(t->store, set[k], i, x, n, err);
            if (!s && !all_finite(x, n))
                s = lgv_fail(err, LGV_ERR_NUMERIC, "'%s' (%s) holds numbers that are not finite",
                             name, set[k]);
        }
    }
    lgv_free(x);
    return s;
}

static lgv_status save_folder(lgv_trainer *t, const char *path, lgv_error *err)
{
    char *draft = lgv_format("%s/.tmp-%lld", t->output, (long long)t->state.step);
    if (!draft) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    lgv_status s = check_finite(t, err);
    if (!s) s = lgv_remove_tree(draft, err);
    if (!s) {
        s = fill_folder(t, draft, err);
        if (!s) s = publish(draft, path, err);
        if (s) lgv_remove_tree(draft, NULL);
    }
    lgv_free(draft);
    return s;
}

static void replace(char **text, char *by)
{
    lgv_free(*text);
    *text = by;
}

/* Everything that can fail for want of memory comes before the checkpoint has its name. */
static lgv_status save_checkpoint(lgv_trainer *t, bool healthy, lgv_error *err)
{
    char *path = lgv_checkpoint_folder(t->output, t->state.step);
    char *copy = path ? lgv_strdup(path) : NULL;
    lgv_status s = copy ? save_folder(t, path, err)
                        : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    if (s) {
        lgv_free(path);
        lgv_free(copy);
        return lgv_fail_prefix(err, s, "checkpoint %lld was not saved", (long long)t->state.step);
    }
    t->saved = t->state.step;
    replace(&t->last_saved, path);
    if (healthy)
        replace(&t->last_checkpoint, copy);
    else
        lgv_free(copy);
    return LGV_OK;
}

lgv_status lgv_trainer_save(lgv_trainer *t, lgv_error *err)
{
    if (!t->output)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the trainer has no output folder to save to");
    bool healthy = lgv_watch_healthy(&t->state);
    if (t->saved != t->state.step) LGV_TRY(save_checkpoint(t, healthy, err));
    if (!healthy) return LGV_OK;
    LGV_TRY(refresh(t, err));
    return rotate(t, err);
}
