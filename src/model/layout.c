/* layout.c - which tensors a file of a network's weights holds, and where in the parameters they stand. Most files hold
   each parameter under its name; a kind of network may have other files too. */
#include "layout.h"

#include <string.h>

/* --- Layouts --- */
lgv_file_tensor *lgv_layout_add(lgv_layout *l, char *name, lgv_error *err)
{
    lgv_file_tensor *t = NULL;
    if (!name)
        (void)lgv_fail(err, LGV_ERR_MEMORY, "out of memory for names of tensors");
    else if (!lgv_grow(&l->tensor, &l->capacity, l->count + 1, sizeof *l->tensor, err))
        t = &l->tensor[l->count++];
    if (!t) {
        lgv_free(name);
        return NULL;
    }
    *t = (lgv_file_tensor){.name = name, .dim = {1, 1, 1, 1}, .param = -1};
    return t;
}

lgv_status lgv_layout_add_param(lgv_layout *l, const lgv_model *m, size_t param, char *name,
                                lgv_error *err)
{
    lgv_file_tensor *t = lgv_layout_add(l, name, err);
    if (!t) return LGV_ERR_MEMORY;
    const lgv_model_param *p = &m->param[param];
    t->param = (int)param;
    t->rank = p->rank;
    memcpy(t->dim, p->dim, sizeof t->dim);
    t->rows = p->dim[0];
    return LGV_OK;
}

void lgv_layout_free(lgv_layout *l)
{
    for (size_t i = 0; i < l->count; i++) lgv_free(l->tensor[i].name);
    lgv_free(l->tensor);
    *l = (lgv_layout){0};
}

lgv_status lgv_layout_make(const lgv_model *m, int format, lgv_layout *out, lgv_error *err)
{
    lgv_status status = LGV_OK;
    *out = (lgv_layout){0};
    if (m->kind->layout)
        status = m->kind->layout(m, format, out, err);
    else
        for (size_t i = 0; i < m->n_params && !status; i++)
            status = lgv_layout_add_param(out, m, i, lgv_strdup(m->param[i].name), err);
    if (status) lgv_layout_free(out);
    return status;
}

int lgv_layout_formats(const lgv_model *m)
{
    return m->kind->layout ? m->kind->formats : 1;
}

const char *lgv_layout_not_original(const lgv_model *m)
{
    if (lgv_layout_formats(m) < 2) return "there is no such form";
    return m->kind->differs ? m->kind->differs(m, 1) : NULL;
}

int lgv_model_file_tensor(const lgv_model *m, const char *name, int *param, int64_t *row,
                          int64_t *rows, int *copies)
{
    lgv_layout l;
    int found = 0;
    if (lgv_layout_make(m, 0, &l, NULL)) return 0;
    *copies = 0;
    for (size_t i = 0; i < l.count && !found; i++) {
        const lgv_file_tensor *t = &l.tensor[i];
        if (t->param < 0 || strcmp(t->name, name)) continue;
        *param = t->param;
        *row = t->row;
        *rows = t->rows;
        found = 1;
    }
    for (size_t i = 0; i < l.count && found; i++)
        *copies += l.tensor[i].param == *param && l.tensor[i].row == *row;
    lgv_layout_free(&l);
    return found;
}
