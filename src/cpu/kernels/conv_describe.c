/* conv_describe.c - the view of conv.h made from a call: shapes, strides, window and epilogue of the six
   operators. Every family of convolution kernels starts here. */
#include "conv.h"

static void describe_weights(conv_problem *p, const lgv_tensor *w)
{
    p->wd = w->data;
    for (int i = 0; i < 4; i++) p->ws[i] = i < w->rank ? w->stride[i] : 0;
    p->kh = w->rank == 4 ? (int)w->dim[2] : 1;
    p->kw = w->rank == 4 ? (int)w->dim[3] : 1;
}

conv_problem conv_describe(const lgv_call *c)
{
    conv_problem p = {.stride = 1};
    const lgv_tensor *x = &c->in[0], *y = &c->out[0], *w = &c->in[1];
    bool conv = false;
    switch (c->op) {
    case LGV_OP_conv2d: conv = true; break;
    case LGV_OP_conv2d_grad_x: conv = true; /* fall through */
    case LGV_OP_linear_grad_x:
        x = &c->out[0];
        y = &c->in[0];
        break;
    case LGV_OP_conv2d_grad_w: conv = true; /* fall through */
    case LGV_OP_linear_grad_w:
        w = &c->out[0];
        y = &c->in[1];
        break;
    default: break;
    }
    p.x = lgv_as_nhwc(x);
    p.y = lgv_as_nhwc(y);
    p.xd = x->data;
    p.yd = y->data;
    describe_weights(&p, w);
    if (conv) {
        const lgv_attr_conv *a = c->attr;
        p.stride = a->stride;
        p.top = a->pad[0];
        p.left = a->pad[1];
    }
    return p;
}

conv_epilogue conv_describe_epilogue(const lgv_call *c)
{
    conv_epilogue e = {.act = c->op == LGV_OP_conv2d ? ((const lgv_attr_conv *)c->attr)->act
                                                     : ((const lgv_attr_linear *)c->attr)->act};
    e.bias = c->in[LGV_IN_BIAS].data;
    e.row = c->in[LGV_IN_ROW].data;
    e.row_stride = c->in[LGV_IN_ROW].stride[0];
    e.gate = c->in[LGV_IN_GATE].data;
    e.gate_stride = c->in[LGV_IN_GATE].stride[0];
    e.residual = c->in[LGV_IN_RESIDUAL].data;
    e.residual_shape = lgv_as_nhwc(&c->in[LGV_IN_RESIDUAL]);
    return e;
}

bool conv_accepts(const lgv_call *c)
{
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i].data && c->in[i].dtype != LGV_F32) return false;
    return c->out[0].dtype == LGV_F32;
}
