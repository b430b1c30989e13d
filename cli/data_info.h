/* data_info.h - `langevin info DATA`: what a data set holds, as text, as JSON and as a contact sheet. */
#ifndef LANGEVIN_CLI_DATA_INFO_H
#define LANGEVIN_CLI_DATA_INFO_H

#include "cli.h"

typedef struct data_info_options {
    int resolution, channels, headers_only, json, threads;
    const char *contact_sheet; /* PNG; NULL: none */
} data_info_options;

lgv_status data_info(const char *path, const data_info_options *o, lgv_error *err);
/* contact_sheet.c: pictures spread over the data set, a row per class where there are classes. */
lgv_status data_contact_sheet(lgv_dataset *data, const char *path, lgv_error *err);

#endif
