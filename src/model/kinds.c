/* kinds.c - the table of the kinds of networks. A new kind is a file with a record, and a line here. */
#include <stdio.h>
#include <string.h>

#include "kind.h"

static const lgv_model_kind *const kinds[] = {&lgv_kind_unet2d, &lgv_kind_classifier, &lgv_kind_dit,
                                              &lgv_kind_compvis, &lgv_kind_guided};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

const lgv_model_kind *lgv_model_kind_at(int i)
{
    return i >= 0 && i < KINDS ? kinds[i] : NULL;
}

const char *lgv_model_components(int i)
{
    for (int k = 0; k < KINDS; k++) {
        bool first = true;
        for (int earlier = 0; earlier < k; earlier++)
            first = first && strcmp(kinds[earlier]->component, kinds[k]->component);
        if (first && i-- == 0) return kinds[k]->component;
    }
    return NULL;
}

static lgv_status unknown(const lgv_json *j, const char *name, lgv_error *err)
{
    char list[256];
    size_t used = 0;
    for (int k = 0; k < KINDS && used < sizeof list; k++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s",
                                 k == 0           ? ""
                                 : k == KINDS - 1 ? " and "
                                                  : ", ",
                                 kinds[k]->class_name);
    return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: _class_name is '%s'; this version knows %s",
                    j->name, name, list);
}

lgv_status lgv_model_kind_of(const lgv_json *j, const lgv_model_kind **out, lgv_error *err)
{
    const char *name;
    LGV_TRY(lgv_json_string(j, "_class_name", kinds[0]->class_name, &name, err));
    for (int k = 0; k < KINDS; k++) {
        const char *alias = kinds[k]->alias;
        if (strcmp(name, kinds[k]->class_name) && !(alias && !strcmp(name, alias))) continue;
        *out = kinds[k];
        return LGV_OK;
    }
    return unknown(j, name, err);
}
