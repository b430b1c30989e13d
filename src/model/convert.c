/* convert.c - weights from one format into another. What is written is a list of tensors with new names: a network's
   parameters, or one dictionary of a file. */
#include "langevin/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/file.h"
#include "langevin/torch_file.h"
#include "layout.h"
#include "select.h"

enum { PARTS = 3 }; /* queries, keys and values */

typedef struct item {
    lgv_tensor_info part[PARTS]; /* one after the other; what they do not fill is zeros */
    int parts;
    float *constant; /* the data of part 0, where that is no tensor of the file */
    lgv_dtype dtype;
} item;

typedef struct job {
    const char *input, *output;
    lgv_convert_options o;
    bool typed; /* dtype is asked for */
    lgv_dtype dtype;
    lgv_weights *w;
    lgv_safetensors_writer *writer;
    item *item; /* what the writer's sources point to */
    size_t items;
    lgv_convert_report report;
    lgv_error *err;
} job;

/* --- Options --- */
static lgv_status read_dtype(job *j)
{
    static const struct {
        const char *name;
        lgv_dtype dtype;
    } types[] = {{"f32", LGV_F32}, {"f16", LGV_F16}, {"bf16", LGV_BF16}};
    for (int i = 0; j->o.dtype && i < 3; i++) {
        if (strcasecmp(j->o.dtype, types[i].name)) continue;
        j->dtype = types[i].dtype;
        j->typed = true;
        return LGV_OK;
    }
    return j->o.dtype ? lgv_fail(j->err, LGV_ERR_ARGUMENT,
                                 "'%s' is no element type; use f32, f16 or bf16", j->o.dtype)
                      : LGV_OK;
}

typedef enum output_kind { TO_FOLDER, TO_SAFETENSORS, TO_TORCH } output_kind;

static output_kind kind_of(const char *output)
{
    static const char *const torch[] = {".pt", ".pth", ".th", ".ckpt", ".bin"};
    const char *slash = strrchr(output, '/'), *dot = strrchr(slash ? slash : output, '.');
    if (!dot || lgv_is_dir(output)) return TO_FOLDER;
    if (!strcasecmp(dot, ".safetensors")) return TO_SAFETENSORS;
    for (int i = 0; i < 5; i++)
        if (!strcasecmp(dot, torch[i])) return TO_TORCH;
    return TO_FOLDER;
}

/* --- The list of tensors --- */
static bool is_float(lgv_dtype dtype)
{
    return dtype == LGV_F32 || dtype == LGV_F16 || dtype == LGV_BF16 || dtype == LGV_F64;
}

static lgv_status read_item(void *arg, void *dst, size_t bytes, lgv_error *err)
{
    const item *it = arg;
    memset(dst, 0, bytes);
    char *to = dst;
    for (int i = 0; i < it->parts; i++) {
        LGV_TRY(lgv_tensor_convert(&it->part[i], it->dtype, to, err));
        to += (size_t)it->part[i].count * lgv_dtype_size(it->dtype);
    }
    return LGV_OK;
}

static lgv_status begin_list(job *j, size_t most)
{
    j->item = lgv_zalloc(most, sizeof *j->item);
    if (!j->item)
        return lgv_fail(j->err, LGV_ERR_MEMORY, "out of memory while converting '%s'", j->input);
    return lgv_safetensors_writer_new(&j->writer, j->err);
}

/* The next item, whose parts are there. */
static lgv_status add_item(job *j, const char *name, int rank, const int64_t *dim, lgv_dtype dtype)
{
    item *it = &j->item[j->items++];
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= dim[i];
    it->dtype = j->typed && is_float(dtype) ? j->dtype : dtype;
    j->report.tensors++;
    j->report.elements += count;
    j->report.bytes += count * (int64_t)lgv_dtype_size(it->dtype);
    return lgv_safetensors_add_source(j->writer, name, it->dtype, rank, dim, read_item, it, j->err);
}

/* --- A network's parameters --- */
static int by_name(const void *a, const void *b)
{
    return strcmp(((const lgv_file_tensor *)a)->name, ((const lgv_file_tensor *)b)->name);
}

/* The tensor of the file that holds a row of a parameter; NULL: none does. */
static const lgv_tensor_info *holder(const lgv_selection *s, int param, int64_t row,
                                     const lgv_file_tensor **at)
{
    for (size_t i = 0; i < s->layout.count; i++) {
        const lgv_file_tensor *f = &s->layout.tensor[i];
        if (f->param != param || row < f->row || row >= f->row + f->rows || !lgv_selected(s, i))
            continue;
        *at = f;
        return lgv_selected(s, i);
    }
    return NULL;
}

/* The rows of parameter t->param that t has, from the tensors of the file that hold them. */
static lgv_status add_rows(job *j, const lgv_selection *s, const lgv_file_tensor *t)
{
    item *it = &j->item[j->items];
    const int64_t end = t->row + t->rows;
    for (int64_t row = t->row; row < end;) {
        const lgv_file_tensor *f;
        const lgv_tensor_info *from = holder(s, t->param, row, &f);
        if (!from || it->parts == PARTS)
            return lgv_fail(j->err, LGV_ERR_UNSUPPORTED,
                            "'%s' does not hold what '%s' is made of", j->input, t->name);
        lgv_tensor_info *part = &it->part[it->parts++];
        const int64_t width = from->count / from->dim[0],
                      rows = lgv_min_i64(end, f->row + f->rows) - row;
        *part = *from;
        part->data = (const char *)from->data +
                     (size_t)((row - f->row) * width) * lgv_dtype_size(from->dtype);
        part->dim[0] = rows;
        part->count = rows * width;
        part->bytes = (size_t)part->count * lgv_dtype_size(from->dtype);
        row += rows;
    }
    return add_item(j, t->name, t->rank, t->dim, it->part[0].dtype);
}

/* What is no parameter, in the type of the file's first tensor when that is a short one. */
static lgv_status add_constant(job *j, const lgv_model *m, const lgv_file_tensor *t)
{
    const lgv_dtype dtype = lgv_weights_at(j->w, 0)->dtype;
    item *it = &j->item[j->items];
    lgv_tensor_info *part = &it->part[0];
    /* The layout and its names end before the file is written. */
    *part = (lgv_tensor_info){.name = "a table", .dtype = LGV_F32, .rank = t->rank, .count = 1};
    for (int i = 0; i < t->rank; i++) part->count *= part->dim[i] = t->dim[i];
    part->bytes = (size_t)part->count * sizeof *it->constant;
    part->data = it->constant = lgv_alloc((size_t)part->count, sizeof *it->constant);
    if (!it->constant)
        return lgv_fail(j->err, LGV_ERR_MEMORY, "out of memory while converting '%s'", j->input);
    m->kind->constant(m, t, it->constant);
    it->parts = 1;
    return add_item(j, t->name, t->rank, t->dim,
                    dtype == LGV_F16 || dtype == LGV_BF16 ? dtype : LGV_F32);
}

/* diffusers' (or the original's) tensors, by name, as lgv_model_save writes them. */
static lgv_status list_sorted(job *j, const lgv_model *m, const lgv_selection *s, lgv_layout *l)
{
    const int originals = kind_of(j->output) != TO_FOLDER && !lgv_layout_not_original(m);
    LGV_TRY(lgv_layout_make(m, originals, l, j->err));
    LGV_TRY(begin_list(j, l->count));
    snprintf(j->report.from, sizeof j->report.from, "%.200s", s->prefix);
    qsort(l->tensor, l->count, sizeof *l->tensor, by_name);
    for (size_t i = 0; i < l->count; i++) {
        const lgv_file_tensor *t = &l->tensor[i];
        LGV_TRY(t->param >= 0 ? add_rows(j, s, t) : add_constant(j, m, t));
    }
    return LGV_OK;
}

/* Files of the original program are of networks with its constants, whatever *m says: then *same becomes such a
   network, and *m that. */
static lgv_status take_constants(job *j, const lgv_model **m, lgv_selection *s, lgv_model **same)
{
    const lgv_model_kind *kind = (*m)->kind;
    if (!kind->differs || !kind->differs(*m, s->format)) return LGV_OK;
    LGV_TRY(kind->same(*m, s->format, same, j->err));
    *m = *same;
    lgv_selection_free(s);
    return lgv_select(*m, j->w, j->o.weights, j->input, s, j->err);
}

static lgv_status list_model(job *j, const lgv_model **m, const char *path, lgv_model **same)
{
    lgv_selection s;
    lgv_layout l = {0};
    LGV_TRY(lgv_model_open_weights(path, &j->w, j->err));
    lgv_status status = lgv_select(*m, j->w, j->o.weights, j->input, &s, j->err);
    if (!status) status = take_constants(j, m, &s, same);
    if (!status) status = list_sorted(j, *m, &s, &l);
    lgv_layout_free(&l);
    lgv_selection_free(&s);
    return status;
}

/* --- A dictionary of a file --- */
typedef struct dictionary {
    const char *name; /* stem bytes of it are the dictionary's path, with its last dot */
    size_t stem;
    size_t tensors;
} dictionary;

/* Optimizers keep a dictionary for each parameter, so theirs are small. */
static size_t count_in(const lgv_weights *w, const char *name, size_t stem)
{
    size_t n = 0;
    for (size_t i = 0; i < lgv_weights_count(w); i++)
        n += lgv_weights_stem(w, i) == stem && !strncmp(lgv_weights_at(w, i)->name, name, stem);
    return n;
}

static bool is_named(const dictionary *d, const char *const *names, int count)
{
    for (int i = 0; i < count; i++)
        if (d->stem == strlen(names[i]) + 1 && !strncmp(d->name, names[i], d->stem - 1))
            return true;
    return false;
}

/* Averages first (or last), then the usual names, then whatever holds most. */
static int rank_of(const dictionary *d, lgv_model_weights which)
{
    static const char *const averages[] = {"ema",        "model_ema",      "ema_model",
                                           "params_ema", "ema_state_dict", "state_dict_ema"},
                             *const usual[] = {"state_dict", "model",     "params",          "net",
                                               "network",    "generator", "model_state_dict"};
    if (is_named(d, averages, 6)) return which == LGV_WEIGHTS_RAW ? 0 : 3;
    if (which == LGV_WEIGHTS_EMA) return 0;
    return is_named(d, usual, 7) ? 2 : 1;
}

static lgv_status choose_dictionary(const job *j, dictionary *out)
{
    int best = 0;
    *out = (dictionary){.name = ""};
    for (size_t i = 0; i < lgv_weights_count(j->w); i++) {
        dictionary d = {lgv_weights_at(j->w, i)->name, lgv_weights_stem(j->w, i), 0};
        bool same = i > 0 && d.stem == lgv_weights_stem(j->w, i - 1) &&
                    !strncmp(d.name, lgv_weights_at(j->w, i - 1)->name, d.stem);
        int rank = same ? 0 : rank_of(&d, j->o.weights);
        if (rank < best || !rank) continue;
        d.tensors = count_in(j->w, d.name, d.stem);
        if (rank == best && d.tensors <= out->tensors) continue;
        best = rank;
        *out = d;
    }
    if (best) return LGV_OK;
    if (!lgv_weights_count(j->w))
        return lgv_fail(j->err, LGV_ERR_FORMAT, "'%s' holds no tensors", j->input);
    return lgv_fail(j->err, LGV_ERR_ARGUMENT,
                    j->o.weights == LGV_WEIGHTS_EMA
                        ? "'%s' holds no averaged (EMA) weights; ask for the raw ones"
                        : "'%s' holds only averaged (EMA) weights; ask for those",
                    j->input);
}

static bool all_begin_with(const lgv_weights *w, const dictionary *d, const char *word)
{
    for (size_t i = 0; i < lgv_weights_count(w); i++) {
        const char *name = lgv_weights_at(w, i)->name;
        if (lgv_weights_stem(w, i) != d->stem || strncmp(name, d->name, d->stem)) continue;
        if (strncmp(name + d->stem, word, strlen(word))) return false;
    }
    return true;
}

static lgv_status list_dictionary(job *j)
{
    dictionary d;
    LGV_TRY(lgv_weights_open_file(j->input, &j->w, j->err));
    LGV_TRY(choose_dictionary(j, &d));
    LGV_TRY(begin_list(j, lgv_weights_count(j->w)));
    size_t skip = d.stem + (all_begin_with(j->w, &d, "module.") ? strlen("module.") : 0);
    for (size_t i = 0; i < lgv_weights_count(j->w); i++) {
        const lgv_tensor_info *t = lgv_weights_at(j->w, i);
        if (lgv_weights_stem(j->w, i) != d.stem || strncmp(t->name, d.name, d.stem)) continue;
        snprintf(j->report.from, sizeof j->report.from, "%.*s", (int)skip, t->name);
        j->item[j->items].part[0] = *t;
        j->item[j->items].parts = 1;
        LGV_TRY(add_item(j, t->name + skip, t->rank, t->dim, t->dtype));
    }
    return LGV_OK;
}

/* --- Output --- */
static lgv_status write_list(job *j, output_kind kind, const char *path)
{
    return kind == TO_TORCH ? lgv_torch_file_write(j->writer, path, j->err)
                            : lgv_safetensors_write(j->writer, path, j->err);
}

static lgv_status copy_scheduler(const job *j, const lgv_model *m)
{
    char *from = m->scheduler ? lgv_path_join(m->scheduler, "scheduler_config.json") : NULL,
         *to = lgv_path_join(j->output, "scheduler_config.json"), *data = NULL;
    size_t size;
    lgv_status status = LGV_OK;
    if ((m->scheduler && !from) || !to)
        status = lgv_fail(j->err, LGV_ERR_MEMORY, "out of memory while converting '%s'", j->input);
    if (!status && from) status = lgv_file_read(from, LGV_JSON_BYTES, &data, &size, j->err);
    if (!status && from) status = lgv_file_write(to, data, size, j->err);
    lgv_free(data);
    lgv_free(from);
    lgv_free(to);
    return status;
}

/* m: what is written; from: the model whose scheduler stands beside. */
static lgv_status write_folder(job *j, const lgv_model *m, const lgv_model *from)
{
    LGV_TRY(lgv_make_dir(j->output, j->err));
    char *config = lgv_path_join(j->output, "config.json"),
         *weights = lgv_path_join(j->output, "diffusion_pytorch_model.safetensors");
    lgv_status status =
        config && weights
            ? LGV_OK
            : lgv_fail(j->err, LGV_ERR_MEMORY, "out of memory while converting '%s'", j->input);
    if (!status) status = lgv_model_save_config(m, config, j->err);
    if (!status) status = write_list(j, TO_SAFETENSORS, weights);
    if (!status) status = copy_scheduler(j, from);
    if (!status) status = lgv_model_save_classes(from, j->output, j->err);
    lgv_free(config);
    lgv_free(weights);
    return status;
}

/* Where the weights lie: the file itself, the folder itself, or where a model folder has them (at, which the caller
   frees, owns the path then). */
static lgv_status locate(job *j, lgv_model **at, const char **path)
{
    lgv_status status = LGV_OK;
    *path = j->input;
    bool plain = !lgv_is_dir(j->input) || (j->o.model && lgv_model_has_weights(j->input, &status));
    if (status) return lgv_fail(j->err, status, "out of memory while converting '%s'", j->input);
    if (plain) return LGV_OK;
    LGV_TRY(lgv_model_open(j->input, NULL, at, j->err));
    LGV_TRY(lgv_model_weights_path(*at, j->o.weights, path, j->err));
    j->o.weights = LGV_WEIGHTS_BEST; /* the folder is chosen */
    return LGV_OK;
}

static lgv_status convert_model(job *j, output_kind kind)
{
    lgv_model *named = NULL, *at = NULL, *same = NULL;
    const char *path;
    lgv_status status = locate(j, &at, &path);
    if (!status && j->o.model) status = lgv_model_open(j->o.model, NULL, &named, j->err);
    const lgv_model *from = named ? named : at, *m = from;
    if (!status) status = list_model(j, &m, path, &same);
    if (!status)
        status = kind == TO_FOLDER ? write_folder(j, m, from) : write_list(j, kind, j->output);
    lgv_model_free(same);
    lgv_model_free(named);
    lgv_model_free(at);
    return status;
}

static lgv_status convert(job *j)
{
    output_kind kind = kind_of(j->output);
    LGV_TRY(read_dtype(j));
    if (j->o.model || lgv_is_dir(j->input)) return convert_model(j, kind);
    if (kind == TO_FOLDER)
        return lgv_fail(
            j->err, LGV_ERR_ARGUMENT,
            "'%s' says nothing about its network: name it with --model (a preset, a config.json "
            "or a model folder), or convert to a file (.safetensors, .pt)",
            j->input);
    LGV_TRY(list_dictionary(j));
    return write_list(j, kind, j->output);
}

lgv_status lgv_convert(const char *input, const char *output, const lgv_convert_options *options,
                       lgv_convert_report *report, lgv_error *err)
{
    job j = {.input = input, .output = output, .err = err};
    if (options) j.o = *options;
    lgv_status status = convert(&j);
    lgv_safetensors_writer_free(j.writer);
    for (size_t i = 0; i < j.items; i++) lgv_free(j.item[i].constant);
    lgv_free(j.item);
    lgv_weights_close(j.w);
    if (!status && report) *report = j.report;
    return status;
}
