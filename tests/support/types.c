/* types.c - element types against operators' records. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "types.h"

void types_check(const lgv_graph *g)
{
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        const lgv_op *r = lgv_op_record(n->op);
        lgv_dtype one = LGV_DTYPES; /* of operands that may be bf16 */
        bool mixed = false;
        if (n->dead || n->op == LGV_OP_cast) continue;
        for (int k = 0; k < n->n_in + n->n_out; k++) {
            bool in = k < n->n_in;
            int at = in ? k : k - n->n_in;
            lgv_id v = in ? n->in[at] : n->out[at];
            if (v < 0) continue;
            if ((in ? r->bf16_in : r->bf16_out) >> at & 1) {
                if (one != LGV_DTYPES) mixed |= one != g->value[v].dtype;
                one = g->value[v].dtype;
            } else if (g->value[v].dtype == LGV_BF16) {
                fail_msg("%s '%s' has bf16 where its record forbids it", r->name, n->name);
            }
        }
        if (mixed && !(r->flags & LGV_OP_MIXED))
            fail_msg("%s '%s' has operands of both types", r->name, n->name);
    }
}
