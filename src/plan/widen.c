/* widen.c - bf16 operands for kernels that know only float: they run on dense float copies in the node's
   scratch memory, made before and (outputs) rounded back after. So every operator works in bf16 on every
   device, and a kernel of its own for bf16 is a matter of speed. Sums are float inside the kernel and are
   rounded once, at the end, as a bf16 kernel does. */
#include <string.h>

#include "planner.h"

static size_t copy_bytes(const lgv_device *d, const lgv_tensor *t)
{
    return lgv_round_up((size_t)lgv_tensor_elements(t) * d->element_size(d, LGV_F32));
}

static bool is_bf16(const lgv_tensor *t)
{
    return t->data && t->dtype == LGV_BF16;
}

bool lgv_has_bf16(const lgv_call *c)
{
    for (int k = 0; k < c->n_in; k++)
        if (is_bf16(&c->in[k])) return true;
    for (int k = 0; k < c->n_out; k++)
        if (is_bf16(&c->out[k])) return true;
    return false;
}

static void widen_tensor(lgv_tensor *t)
{
    if (!is_bf16(t)) return;
    int64_t step = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        t->stride[i] = step;
        step *= t->dim[i];
    }
    t->dtype = LGV_F32;
    t->halo = 0;
}

void lgv_widen(const lgv_call *c, lgv_call *wide)
{
    *wide = *c;
    for (int k = 0; k < c->n_in; k++) widen_tensor(&wide->in[k]);
    for (int k = 0; k < c->n_out; k++) widen_tensor(&wide->out[k]);
}

size_t lgv_widened_bytes(const lgv_device *d, const lgv_call *c)
{
    size_t bytes = 0;
    for (int k = 0; k < c->n_in; k++)
        if (is_bf16(&c->in[k])) bytes += copy_bytes(d, &c->in[k]);
    for (int k = 0; k < c->n_out; k++)
        if (is_bf16(&c->out[k])) bytes += copy_bytes(d, &c->out[k]);
    return bytes;
}

void lgv_widened_bind(const lgv_device *d, const lgv_call *c, lgv_widened *wide, void *copies)
{
    char *at = copies;
    lgv_widen(c, &wide->call);
    for (int k = 0; k < c->n_in + c->n_out; k++) {
        bool in = k < c->n_in;
        const lgv_tensor *t = in ? &c->in[k] : &c->out[k - c->n_in];
        if (!is_bf16(t)) continue;
        *(in ? &wide->call.in[k].data : &wide->call.out[k - c->n_in].data) = at;
        at += copy_bytes(d, t);
    }
}

static void convert(const lgv_kernel *cast, const lgv_call *c, const lgv_tensor *from,
                    const lgv_tensor *to)
{
    lgv_call call = {.op = LGV_OP_cast,
                     .name = c->name,
                     .n_in = 1,
                     .n_out = 1,
                     .threads = c->threads,
                     .pool = c->pool,
                     .step = c->step};
    call.in[0] = *from;
    call.out[0] = *to;
    cast->run(&call);
}

void lgv_widened_run(const lgv_kernel *cast, const lgv_call *c, lgv_widened *wide, bool back)
{
    for (int k = 0; !back && k < c->n_in; k++)
        if (is_bf16(&c->in[k])) convert(cast, c, &c->in[k], &wide->call.in[k]);
    for (int k = 0; back && k < c->n_out; k++)
        if (is_bf16(&c->out[k])) convert(cast, c, &wide->call.out[k], &c->out[k]);
}
