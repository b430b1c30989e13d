/* scheduler_fields.h - the fields of scheduler_config.json and the classes that have them. Internal. */
#ifndef LGV_DIFFUSION_SCHEDULER_FIELDS_H
#define LGV_DIFFUSION_SCHEDULER_FIELDS_H

#include "langevin/schedule.h"

typedef enum lgv_field_type {
    LGV_SCHEDULER_COUNT,  /* int64_t from 1 */
    LGV_SCHEDULER_OFFSET, /* int64_t from 0 */
    LGV_SCHEDULER_DOUBLE,
    LGV_SCHEDULER_OPTIONAL, /* double, 0 is null in the file */
    LGV_SCHEDULER_BOOL,     /* int */
    LGV_SCHEDULER_ENUM,     /* int */
    LGV_SCHEDULER_STEPS,    /* uint64_t, bit i is step i */
    LGV_SCHEDULER_BETAS
} lgv_field_type;

typedef struct lgv_scheduler_field {
    const char *key;
    lgv_field_type type;
    unsigned classes;
    size_t at;                /* of the member of lgv_scheduler_config */
    const char *const *names; /* of LGV_SCHEDULER_ENUM */
} lgv_scheduler_field;

extern const lgv_scheduler_field lgv_scheduler_fields[];
extern const int lgv_scheduler_field_count; /* at most 64 */

/* The bit of a class; 0 when it is not one of ours. */
unsigned lgv_scheduler_class(const char *name);
/* Whether a class has a field. */
int lgv_scheduler_has(const char *class_name, const char *key);
/* The name of the first class, and the defaults of a class by its bit (0: those most classes share). */
const char *lgv_scheduler_first_class(void);
void lgv_scheduler_defaults(unsigned class_bit, lgv_scheduler_config *cfg);

#endif
