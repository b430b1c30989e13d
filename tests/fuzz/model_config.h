/* model_config.h - what the targets of networks' configurations share. */
#ifndef LGV_FUZZ_MODEL_CONFIG_H
#define LGV_FUZZ_MODEL_CONFIG_H

#include "fuzz.h"
#include "model/kind.h"

/* A config.json of that kind, whatever _class_name says (NULL: of the kind that it names). A configuration that passes is
   written, and what is written is read and written again with the same text. False: it was refused, with a sentence.
   m: the kind, its configuration and what follows from it; fuzz_model_free it. */
bool fuzz_model_config(const lgv_model_kind *kind, const uint8_t *data, size_t size, lgv_model *m);
void fuzz_model_free(lgv_model *m);

#endif
