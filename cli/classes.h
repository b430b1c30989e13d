/* classes.h - classes on the command line: from words to labels, and pictures in groups with their names. */
#ifndef LANGEVIN_CLI_CLASSES_H
#define LANGEVIN_CLI_CLASSES_H

#include "cli.h"
#include "langevin/image.h"

/* How many classes a class-conditional network or a classifier knows, and what one is called (in text where it has no
   name; -1 and the null label are "none"). */
int cli_class_count(const lgv_model *model);
const char *cli_class_name(const lgv_model *model, int label, char text[32]);
/* "Bag,3,#3", "all", "none" (-1) as labels; free(*labels). Names go before numbers, and exact ones before those that
   differ in upper and lower case. */
lgv_status cli_classes_read(const lgv_model *model, const char *text, int32_t **labels, int64_t *n,
                            lgv_error *err);
/* n pictures of one size (8 bits, 1 or 3 channels) in one, white names on black before those of each class. */
lgv_status cli_class_sheet(const lgv_image *images, const int32_t *label, int64_t n,
                           const lgv_model *model, lgv_image *out, lgv_error *err);

#endif
