/* output.c - the folder of a run: one trainer at a time, room on the disk, the files that make it a
   diffusers pipeline, langevin.json and the log. */
#include "trainer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "diffusion/scheduler.h"
#include "io/json.h"
#include "options.h"

static lgv_status no_path(lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
}

/* ---- one trainer at a time ---- */

enum { OWNER_TEXT = 320 };

/* "process 1234 on host" into the file that is locked, for whoever finds it so. Only people read it. */
static void sign(int lock)
{
    char text[OWNER_TEXT], host[256] = "";
    if (gethostname(host, sizeof host - 1)) host[0] = 0;
    int n = snprintf(text, sizeof text, "process %ld on %s\n", (long)getpid(),
                     host[0] ? host : "an unnamed host");
    if (ftruncate(lock, 0) || pwrite(lock, text, (size_t)n, 0) != n) return; /* a full disk */
}

static lgv_status is_locked(const lgv_trainer *t, lgv_error *err)
{
    char text[OWNER_TEXT];
    ssize_t n = pread(t->lock, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return lgv_fail(err, LGV_ERR_EXISTS,
                    "another training run is writing to '%s'%s%s%s; wait for its end, stop it, or "
                    "choose another folder",
                    t->output, *text ? " (" : "", text, *text ? ")" : "");
}

/* The kernel drops the lock with the process, however that ends: no stale lock can be left, only a file. */
lgv_status lgv_output_lock(lgv_trainer *t, lgv_error *err)
{
    if (t->lock >= 0) return LGV_OK;
    char *path = lgv_path_join(t->output, ".lock");
    if (!path) return no_path(err);
    t->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    int saved = errno;
    lgv_free(path);
    if (t->lock < 0)
        return lgv_fail(err, LGV_ERR_IO, "cannot write to '%s': %s", t->output, strerror(saved));
    if (flock(t->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) return is_locked(t, err);
    sign(t->lock);
    return LGV_OK; /* a file system without locks is no reason to stop */
}

/* ---- clearing ---- */

lgv_status lgv_output_remove(const char *path, lgv_error *err)
{
    if (!lgv_is_dir(path)) return lgv_remove_tree(path, err);
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *doomed = lgv_format("%.*s.tmp-old-%s", (int)(name - path), path, name);
    lgv_status s = doomed ? lgv_remove_tree(doomed, err) : no_path(err);
    if (!s) s = lgv_rename(path, doomed, err);
    if (!s) s = lgv_remove_tree(doomed, err);
    lgv_free(doomed);
    return s;
}

static lgv_status remove_named(const char *output, const char *name, lgv_error *err)
{
    char *path = lgv_path_join(output, name);
    bool draft = !strncmp(name, ".tmp-", 5);
    lgv_status s = !path   ? no_path(err)
                   : draft ? lgv_remove_tree(path, err)
                           : lgv_output_remove(path, err);
    lgv_free(path);
    return s;
}

static bool is_component(const char *name)
{
    const char *component;
    for (int i = 0; (component = lgv_model_components(i)) != NULL; i++)
        if (!strcmp(name, component)) return true;
    return false;
}

static bool is_made(const char *name)
{
    static const char *const made[] = {"log.jsonl",     "samples",       "tensorboard",
                                       "langevin.json", "loss.png",      "loss.svg",
                                       "timesteps.png", "timesteps.svg", "samples.gif"};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        if (!strcmp(name, made[i])) return true;
    return is_component(name);
}

/* Removes what a kill left half-written, and with `all` what an earlier run made. */
static lgv_status clear_run(const char *output, bool all, lgv_error *err)
{
    lgv_names names = {0};
    LGV_TRY(lgv_list_dir(output, &names, err));
    lgv_status s = LGV_OK;
    for (size_t i = 0; i < names.count && !s; i++) {
        const char *name = names.name[i];
        bool draft = !strncmp(name, ".tmp-", 5), made = is_made(name);
        if (draft || (all && (made || lgv_checkpoint_named(name) >= 0)))
            s = remove_named(output, name, err);
    }
    lgv_names_free(&names);
    return s;
}

static lgv_status clear_drafts_in(const char *output, const char *folder, lgv_error *err)
{
    char *path = lgv_path_join(output, folder);
    lgv_status s = !path ? no_path(err) : lgv_is_dir(path) ? lgv_remove_drafts(path, err) : LGV_OK;
    lgv_free(path);
    return s;
}

/* Files that a kill left half-written under the names of lgv_atomic, in the folders that are refreshed in place.
   The lock is held, so nobody is writing them now. */
static lgv_status clear_drafts(const char *output, lgv_error *err)
{
    static const char *const folder[] = {".", "scheduler", "samples"};
    const char *component;
    lgv_status s = LGV_OK;
    for (size_t i = 0; i < sizeof folder / sizeof *folder && !s; i++)
        s = clear_drafts_in(output, folder[i], err);
    for (int i = 0; !s && (component = lgv_model_components(i)) != NULL; i++)
        s = clear_drafts_in(output, component, err);
    return s;
}

/* ---- room ---- */

static uint64_t checkpoint_bytes(const lgv_trainer *t)
{
    /* weights, two moments, averaged weights; half a megabyte for headers and JSON */
    return (uint64_t)lgv_store_parameters(t->store) * 4 * (t->ema ? 4 : 3) + (UINT64_C(1) << 19);
}

static lgv_status check_room(lgv_trainer *t, lgv_error *err)
{
    uint64_t one = checkpoint_bytes(t), room, want;
    int64_t keep = t->options.checkpoints_total_limit;
    LGV_TRY(lgv_free_space(t->output, &room, err));
    /* A new checkpoint is whole before an old one goes; the pipeline holds the weights once more.
     */
    want = one * (uint64_t)(keep == LGV_OFF ? 2 : keep + 1) + one / 2;
    if (room >= want) return LGV_OK;
    if (room < 2 * one)
        return lgv_fail(
            err, LGV_ERR_IO, "'%s' has %llu MB free; two checkpoints of this model need %llu MB",
            t->output, (unsigned long long)(room >> 20), (unsigned long long)(2 * one >> 20));
    return lgv_trainer_note(
        t, err, "'%s' has %llu MB free; all checkpoints kept at once need %llu MB", t->output,
        (unsigned long long)(room >> 20), (unsigned long long)(want >> 20));
}

/* ---- files ---- */

static lgv_status save_json(const char *folder, const char *name, json_t *root, lgv_error *err)
{
    char *path = lgv_path_join(folder, name);
    lgv_status s = path && root ? lgv_json_save(path, root, false, err)
                                : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %s", name);
    json_decref(root);
    lgv_free(path);
    return s;
}

/* The names of classes as transformers and DiTPipeline write them. */
static json_t *id2label(const lgv_model_info *m)
{
    json_t *map = json_object();
    for (int i = 0; map && i < m->class_names; i++) {
        char key[16], number[32];
        snprintf(key, sizeof key, "%d", i);
        snprintf(number, sizeof number, "class %d", i);
        json_object_set_new(map, key, lgv_json_text_or(m->class_name_of[i], number));
    }
    return map;
}

static lgv_status save_index(const lgv_trainer *t, const char *folder, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    json_t *root = json_pack("{s:s, s:s, s:[ss], s:[ss]}", "_class_name",
                             m->written_as ? m->written_as : "DDPMPipeline", "_diffusers_version",
                             LGV_DIFFUSERS_VERSION, "scheduler", "diffusers", t->cfg.class_name,
                             m->component, "diffusers", m->class_name);
    /* DDPMPipeline knows no classes, whatever its network does. */
    if (root && m->class_names && m->written_as && strcmp(m->written_as, "DDPMPipeline"))
        json_object_set_new(root, "id2label", id2label(m));
    return save_json(folder, "model_index.json", root, err);
}

lgv_status lgv_output_write_index(const lgv_trainer *t, const char *folder, lgv_error *err)
{
    if (t->task->pipeline) LGV_TRY(save_index(t, folder, err));
    char *scheduler = lgv_path_join(folder, "scheduler"),
         *path = lgv_path_join(folder, "scheduler/scheduler_config.json");
    lgv_status s = scheduler && path ? lgv_make_dir(scheduler, err) : no_path(err);
    if (!s) s = lgv_scheduler_config_save(&t->cfg, path, err);
    if (!s) s = lgv_sync_dir(scheduler, err);
    lgv_free(scheduler);
    lgv_free(path);
    return s;
}

static json_t *class_names(const lgv_dataset *data)
{
    json_t *list = json_array();
    for (int i = 0; list && i < lgv_dataset_classes(data); i++) {
        char number[32];
        snprintf(number, sizeof number, "class %d", i);
        json_t *name = lgv_json_text_or(lgv_dataset_class_name(data, i), number);
        if (!json_array_append_new(list, name)) continue;
        json_decref(list);
        list = NULL;
    }
    return list;
}

/* The paths that stand in langevin.json and in the checkpoints. */
static lgv_status check_paths(const lgv_trainer *t, lgv_error *err)
{
    const lgv_data_source *source;
    int n = lgv_dataset_sources(t->data, &source);
    for (int i = -1; i < n; i++) {
        const char *path = i < 0 ? lgv_model_describe(t->model)->source : source[i].path;
        if (!lgv_json_is_utf8(path))
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the path '%s' is not UTF-8 and cannot stand in the run's JSON files; "
                            "rename it",
                            path);
    }
    return LGV_OK;
}

static lgv_status write_run(const lgv_trainer *t, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    lgv_dataset_options o;
    LGV_TRY(check_paths(t, err));
    lgv_dataset_settings(t->data, &o);
    json_t *null =
        lgv_classes_used(t) && m->null_label >= 0 ? json_integer(m->null_label) : json_null();
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:s, s:i}", "langevin_version",
        LGV_VERSION, "model", m->source, "parameters", (json_int_t)m->parameters, "data",
        lgv_dataset_path(t->data), "data_fingerprint", lgv_dataset_fingerprint(t->data), "pictures",
        (json_int_t)lgv_dataset_count(t->data), "validation_pictures",
        (json_int_t)lgv_dataset_validation_count(t->data), "class_names", class_names(t->data),
        "null_label", null, "options", lgv_train_options_json(&t->options), "data_options",
        lgv_dataset_options_json(&o), "device", lgv_device_name(t->device), "threads",
        lgv_device_threads(t->device));
    return save_json(t->output, "langevin.json", root, err);
}

/* ---- log.jsonl ---- */

/* The step of a log line, -1 when it has none. */
static int64_t line_step(const char *line, size_t n)
{
    static const char key[] = "{\"step\": ";
    static const char tight[] = "{\"step\":";
    const char *end = line + n;
    if (n > sizeof key - 1 && !memcmp(line, key, sizeof key - 1))
        line += sizeof key - 1;
    else if (n > sizeof tight - 1 && !memcmp(line, tight, sizeof tight - 1))
        line += sizeof tight - 1;
    else
        return -1;
    int64_t step = 0;
    for (; line < end && *line >= '0' && *line <= '9' && step < INT64_C(1) << 50; line++)
        step = step * 10 + (*line - '0');
    return step;
}

/* Bytes of the log up to the last whole line whose step is not beyond `step`: after a kill the log
   may be ahead of the checkpoint, and the steps in between come again. */
static size_t log_keep(const char *text, size_t size, int64_t step)
{
    size_t at = 0;
    while (at < size) {
        const char *newline = memchr(text + at, '\n', size - at);
        if (!newline || line_step(text + at, size - at) > step) break;
        at = (size_t)(newline - text) + 1;
    }
    return at;
}

static lgv_status open_log(lgv_trainer *t, bool resume, lgv_error *err)
{
    char *path = lgv_path_join(t->output, "log.jsonl");
    if (!path) return no_path(err);
    size_t keep = 0;
    lgv_map map;
    if (resume && lgv_is_file(path) && !lgv_map_open(path, &map, NULL)) {
        keep = log_keep((const char *)map.data, map.size, t->state.step);
        lgv_map_close(&map);
    }
    t->log = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND, 0666);
    lgv_status s = LGV_OK;
    if (t->log < 0 || ftruncate(t->log, (off_t)keep))
        s = lgv_fail(err, LGV_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    lgv_free(path);
    return s;
}

/* A resumed run makes what earlier files say beyond its checkpoint void. */
static lgv_status open_events(lgv_trainer *t, bool resume, lgv_error *err)
{
    char *folder = lgv_path_join(t->output, "tensorboard");
    lgv_status s = folder ? lgv_events_open(folder, resume ? t->state.step + 1 : 0, &t->events, err)
                          : no_path(err);
    lgv_free(folder);
    return s ? s : lgv_log_options(t, err);
}

lgv_status lgv_output_log(lgv_trainer *t, json_t *line, lgv_error *err)
{
    char *text = NULL;
    size_t size = 0;
    lgv_status s = line ? lgv_json_line(line, &text, &size, err)
                        : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the log");
    json_decref(line);
    if (s || t->log < 0) {
        lgv_free(text);
        return s;
    }
    text[size] = '\n'; /* over the final NUL */
    off_t end = lseek(t->log, 0, SEEK_END);
    if (!lgv_write_all(t->log, text, size + 1))
        s = lgv_fail(err, LGV_ERR_IO, "cannot write '%s/log.jsonl': %s", t->output,
                     strerror(errno));
    if (s && end >= 0 && ftruncate(t->log, end))
        s = LGV_ERR_IO; /* half a line would spoil the next */
    lgv_free(text);
    return s;
}

/* ---- opening ---- */

/* Checkpoints beyond the one resumed from belong to a line that is given up: they get another name,
   so that `latest` and the rotation see the new line only, and nothing is lost. */
static lgv_status set_aside(lgv_trainer *t, const int64_t *step, size_t count, lgv_error *err)
{
    lgv_status s = LGV_OK;
    for (size_t i = 0; i < count && !s; i++) {
        if (step[i] <= t->state.step) continue;
        char *from = lgv_checkpoint_folder(t->output, step[i]);
        char *to = lgv_format("%s/abandoned-checkpoint-%lld", t->output, (long long)step[i]);
        for (int n = 2; to && lgv_exists(to); n++) {
            lgv_free(to);
            to = lgv_format("%s/abandoned-checkpoint-%lld.%d", t->output, (long long)step[i], n);
        }
        s = from && to ? lgv_rename(from, to, err) : no_path(err);
        if (!s)
            s = lgv_trainer_note(t, err,
                                 "checkpoint-%lld is beyond this run's start: renamed to '%s'",
                                 (long long)step[i], to);
        lgv_free(from);
        lgv_free(to);
    }
    return s;
}

/* What the run draws would lie among the pictures it is trained on. */
static lgv_status check_place(const lgv_trainer *t, lgv_error *err)
{
    const lgv_data_source *source;
    struct stat data, output;
    int n = lgv_dataset_sources(t->data, &source);
    for (int i = 0; i < n; i++)
        if (!stat(source[i].path, &data) && !stat(t->output, &output) &&
            data.st_dev == output.st_dev && data.st_ino == output.st_ino)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the output folder '%s' is the folder of the pictures; choose another, "
                            "such as '%s/model'",
                            t->output, t->output);
    return LGV_OK;
}

static lgv_status open_folder(lgv_trainer *t, const int64_t *step, size_t count,
                              const lgv_checkpoint *resume, lgv_error *err)
{
    if (!resume && count && !t->options.overwrite)
        return lgv_fail(err, LGV_ERR_EXISTS,
                        "'%s' already holds a run: go on with it (--resume-from-checkpoint "
                        "latest), or --overwrite it",
                        t->output);
    LGV_TRY(check_place(t, err));
    LGV_TRY(lgv_make_dir(t->output, err));
    LGV_TRY(lgv_output_lock(t, err));
    LGV_TRY(clear_run(t->output, !resume, err));
    LGV_TRY(clear_drafts(t->output, err));
    LGV_TRY(check_room(t, err));
    if (resume) LGV_TRY(lgv_trainer_repair(t, resume, err));
    if (resume) LGV_TRY(set_aside(t, step, count, err));
    LGV_TRY(lgv_output_write_index(t, t->output, err));
    LGV_TRY(write_run(t, err));
    LGV_TRY(open_log(t, resume, err));
    return open_events(t, resume, err);
}

lgv_status lgv_output_open(lgv_trainer *t, const lgv_checkpoint *resume, lgv_error *err)
{
    int64_t *step;
    size_t count;
    LGV_TRY(lgv_checkpoints_list(t->output, &step, &count, err));
    lgv_status s = open_folder(t, step, count, resume, err);
    lgv_free(step);
    return s;
}

void lgv_output_close(lgv_trainer *t)
{
    lgv_events_close(t->events);
    t->events = NULL;
    if (t->log >= 0) close(t->log);
    if (t->lock >= 0) close(t->lock);
    t->log = t->lock = -1;
}
