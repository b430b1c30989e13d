/* tensors_info.c - the tensors of a file and what stands beside them. */
#include <jansson.h>
#include <string.h>

#include "cli.h"
#include "langevin/torch_file.h"
#include "tensors_info.h"

bool tensors_is(const char *path)
{
    return cli_ends_in(path, ".safetensors") || lgv_torch_file_is(path);
}

/* Names come from strangers: control characters are not the terminal's business. */
static void print_clean(const char *text, int width)
{
    int n = 0;
    for (; *text; text++, n++) putchar((unsigned char)*text < 32 || *text == 127 ? '?' : *text);
    for (; n < width; n++) putchar(' ');
}

static void shape_text(const lgv_tensor_info *t, char text[192])
{
    int used = snprintf(text, 192, "(");
    for (int i = 0; i < t->rank; i++)
        used +=
            snprintf(text + used, 192 - (size_t)used, i ? ", %lld" : "%lld", (long long)t->dim[i]);
    snprintf(text + used, 192 - (size_t)used, ")");
}

static void print_text(const char *path, const lgv_weights *w)
{
    char shape[192], elements[32], bytes[32];
    const char *name, *text;
    double count = 0, size = 0;
    for (size_t i = 0; i < lgv_weights_count(w); i++) {
        const lgv_tensor_info *t = lgv_weights_at(w, i);
        count += (double)t->count;
        size += (double)t->bytes;
    }
    printf("%s: %zu tensors, %s numbers, %s\n", path, lgv_weights_count(w),
           cli_count(count, elements), cli_bytes(size, bytes));
    for (size_t i = 0; i < lgv_weights_count(w); i++) {
        const lgv_tensor_info *t = lgv_weights_at(w, i);
        shape_text(t, shape);
        printf("  ");
        print_clean(t->name, 56);
        printf(" %-4s %s\n", lgv_dtype_name(t->dtype), shape);
    }
    for (size_t i = 0; lgv_weights_note(w, i, &name, &text); i++) {
        printf("  ");
        print_clean(name, 56);
        printf(" ");
        print_clean(text, 0);
        printf("\n");
    }
}

static json_t *tensor_json(const lgv_tensor_info *t)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++) json_array_append_new(shape, json_integer(t->dim[i]));
    return json_pack("{s:o, s:s, s:o}", "name", cli_json_text(t->name), "type",
                     lgv_dtype_name(t->dtype), "shape", shape);
}

static void print_json(const char *path, const lgv_weights *w)
{
    json_t *tensors = json_array(), *notes = json_array();
    const char *name, *text;
    for (size_t i = 0; i < lgv_weights_count(w); i++)
        json_array_append_new(tensors, tensor_json(lgv_weights_at(w, i)));
    for (size_t i = 0; lgv_weights_note(w, i, &name, &text); i++)
        json_array_append_new(notes, json_pack("{s:o, s:o}", "name", cli_json_text(name), "text",
                                               cli_json_text(text)));
    cli_print_json(json_pack("{s:o, s:o, s:o}", "source", cli_json_text(path), "tensors", tensors,
                             "notes", notes));
}

lgv_status tensors_info(const char *path, int json, lgv_error *err)
{
    lgv_weights *w = NULL;
    lgv_status status = lgv_weights_open_file(path, &w, err);
    if (status) return status;
    if (json)
        print_json(path, w);
    else
        print_text(path, w);
    lgv_weights_close(w);
    return LGV_OK;
}
