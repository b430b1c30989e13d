/* names.c - what the classes of a class-conditional network are called, and which of its labels stands for no
   class. A network's own configuration does not say: langevin.json of the run that trained it does, or, of a
   diffusers pipeline, id2label in model_index.json. */
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "kind.h"

enum { MOST_CLASSES = 65536 };

lgv_status lgv_class_names_new(int count, const char *const *names, lgv_class_names *out,
                               lgv_error *err)
{
    lgv_class_names l = {.name = lgv_zalloc((size_t)count, sizeof *l.name), .count = count};
    bool ok = l.name != NULL;
    for (int i = 0; ok && i < count; i++) {
        l.name[i] = names ? lgv_strdup(names[i]) : lgv_format("%d", i);
        ok = l.name[i] != NULL;
    }
    if (ok) {
        *out = l;
        return LGV_OK;
    }
    lgv_class_names_free(&l);
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %d class names", count);
}

void lgv_class_names_free(lgv_class_names *labels)
{
    for (int i = 0; labels->name && i < labels->count; i++) lgv_free(labels->name[i]);
    lgv_free(labels->name);
    *labels = (lgv_class_names){0};
}

/* ---- id2label ---- */

lgv_status lgv_class_names_read(const lgv_json *j, lgv_class_names *out, lgv_error *err)
{
    const json_t *map = json_object_get(j->root, "id2label");
    size_t n = json_object_size(map);
    if (!json_is_object(map) || n < 2 || n > MOST_CLASSES)
        return lgv_json_wrong(j, "id2label", "an object with 2 to 65536 class names", err);
    const char **names = lgv_zalloc(n, sizeof *names);
    if (!names) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for class names");
    lgv_status status = LGV_OK;
    for (size_t i = 0; i < n && !status; i++) {
        char key[24];
        snprintf(key, sizeof key, "%zu", i);
        names[i] = json_string_value(json_object_get(map, key));
        if (!names[i])
            status =
                lgv_fail(err, LGV_ERR_FORMAT,
                         "%s: id2label has %zu entries, but no name under \"%s\"", j->name, n, key);
    }
    if (!status) status = lgv_class_names_new((int)n, names, out, err);
    lgv_free(names);
    return status;
}

json_t *lgv_class_names_json(const char *const *name, int count)
{
    json_t *map = json_object();
    for (int i = 0; map && i < count; i++) {
        char key[16], number[32];
        snprintf(key, sizeof key, "%d", i);
        snprintf(number, sizeof number, "class %d", i);
        if (!json_object_set_new(map, key, lgv_json_text_or(name[i], number))) continue;
        json_decref(map);
        map = NULL;
    }
    return map;
}

/* ---- langevin.json ---- */

static lgv_status read_list(const lgv_json *j, lgv_class_names *out, lgv_error *err)
{
    size_t n = lgv_json_length(j, "class_names"), count = 0;
    if (!n) return LGV_OK;
    if (n > MOST_CLASSES)
        return lgv_json_wrong(j, "class_names", "a list of at most 65536 names", err);
    const char **names = lgv_zalloc(n, sizeof *names);
    if (!names) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for class names");
    lgv_status status = lgv_json_strings(j, "class_names", names, n, &count, err);
    if (!status) status = lgv_class_names_new((int)count, names, out, err);
    lgv_free(names);
    return status;
}

static lgv_status read_run(lgv_model *m, const lgv_json *j, lgv_error *err)
{
    int64_t null;
    LGV_TRY(read_list(j, &m->classes, err));
    LGV_TRY(lgv_json_int(j, "null_label", 0, INT32_MAX, m->info.null_label, &null, err));
    if (m->classes.count > m->info.class_count || null >= m->info.class_count)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s names %d classes and the null label %lld; the network knows the labels "
                        "0 to %d",
                        j->name, m->classes.count, (long long)null, m->info.class_count - 1);
    m->null_label = (int)null;
    return LGV_OK;
}

static lgv_status read_pipeline(lgv_model *m, const lgv_json *j, lgv_error *err)
{
    if (m->classes.count || !lgv_json_has(j, "id2label")) return LGV_OK;
    LGV_TRY(lgv_class_names_read(j, &m->classes, err));
    if (m->classes.count <= m->info.class_count) return LGV_OK;
    return lgv_fail(err, LGV_ERR_FORMAT, "%s: id2label names %d classes, the network knows %d",
                    j->name, m->classes.count, m->info.class_count);
}

static lgv_status read_from(lgv_model *m, const char *folder, const char *file,
                            lgv_status (*read)(lgv_model *m, const lgv_json *j, lgv_error *err),
                            bool *found, lgv_error *err)
{
    char *path = lgv_path_join(folder, file);
    lgv_json j = {0};
    if (!path)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while looking into '%s'", folder);
    lgv_status status = LGV_OK;
    if (lgv_is_file(path)) {
        *found = true;
        status = lgv_json_load(path, &j, err);
        if (!status) status = read(m, &j, err);
        lgv_json_free(&j);
    }
    lgv_free(path);
    return status;
}

/* A network's own folder, a checkpoint, then the run: the files stand in one of the three. */
lgv_status lgv_model_find_classes(lgv_model *m, const char *folder, lgv_error *err)
{
    bool found = false;
    if (m->info.class_kind != LGV_CLASS_TABLE || !lgv_is_dir(folder)) return LGV_OK;
    char *at = lgv_strdup(folder);
    lgv_status status = at ? LGV_OK : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    for (int up = 0; up < 3 && !status && !found; up++) {
        status = read_from(m, at, "langevin.json", read_run, &found, err);
        if (!status) status = read_from(m, at, "model_index.json", read_pipeline, &found, err);
        /* A checkpoint has an index of its own; the names stand beside it. */
        found = found && (m->classes.count || m->null_label >= 0);
        if (status || found || !lgv_folder_inside(at, &status)) break;
        char *parent = lgv_folder_parent(at);
        if (!parent) status = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
        lgv_free(at);
        at = parent;
    }
    lgv_free(at);
    return status;
}

/* ---- given by a trainer ---- */

lgv_status lgv_model_name_classes(lgv_model *m, int count, const char *const *names, int null_label,
                                  lgv_error *err)
{
    lgv_class_names made = {0};
    if (m->info.class_kind != LGV_CLASS_TABLE || count < 0 || count > m->info.class_count ||
        null_label < -1 || null_label >= m->info.class_count)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' has %d labels: %d names and the null label %d do not fit",
                        m->info.source, m->info.class_count, count, null_label);
    if (count) LGV_TRY(lgv_class_names_new(count, names, &made, err));
    lgv_class_names_free(&m->classes);
    m->classes = made;
    m->null_label = null_label;
    lgv_model_describe_classes(m);
    return LGV_OK;
}

void lgv_model_describe_classes(lgv_model *m)
{
    m->info.class_names = m->classes.count;
    m->info.class_name_of = (const char *const *)m->classes.name;
    if (m->null_label >= 0) m->info.null_label = m->null_label;
}

lgv_status lgv_model_save_classes(const lgv_model *m, const char *folder, lgv_error *err)
{
    if (!m->classes.count) return LGV_OK;
    char *path = lgv_path_join(folder, "langevin.json");
    json_t *names = json_array(), *root = NULL;
    for (int i = 0; i < m->classes.count; i++)
        lgv_json_append(&names, lgv_json_text_or(m->classes.name[i], "?"));
    if (names) root = json_pack("{s:o}", "class_names", names);
    bool bad = !path || !root ||
               (m->null_label >= 0 &&
                json_object_set_new(root, "null_label", json_integer(m->null_label)));
    lgv_status status =
        bad ? lgv_fail(err, LGV_ERR_MEMORY, "out of memory for class names") : LGV_OK;
    if (!status) status = lgv_json_save(path, root, false, err);
    json_decref(root);
    lgv_free(path);
    return status;
}
