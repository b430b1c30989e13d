/* types.h - what operators' records promise to kernels about element types. */
#ifndef LGV_TEST_TYPES_H
#define LGV_TEST_TYPES_H

#include "graph/node.h"

/* Fails the test where a node has bf16 that its record forbids, or both types without LGV_OP_MIXED. */
void types_check(const lgv_graph *g);

#endif
