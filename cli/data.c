/* data.c - naming data on the command line: --data PATH or --data PATH=WEIGHT, several times. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* A path that exists is a path, whatever it contains. Cuts the weight off the text. */
static int read_source(const cli_command *self, char *text, lgv_data_source *out)
{
    char *equals = strrchr(text, '='), *end;
    *out = (lgv_data_source){text, 1};
    if (!equals || !access(text, F_OK)) return -1;
    double weight = strtod(equals + 1, &end);
    if (!equals[1] || *end)
        return cli_error(self, CLI_USAGE,
                         "--data %s: there is no such path, and '%s' is no weight; write PATH or "
                         "PATH=WEIGHT, such as pictures=2",
                         text, equals + 1);
    if (!(weight >= 0.001 && weight <= 1000))
        return cli_error(self, CLI_USAGE, "--data %s: a weight is between 0.001 and 1000", text);
    *equals = 0;
    out->weight = weight;
    return -1;
}

int cli_read_sources(const cli_command *self, char **texts, lgv_data_source **out, int *n)
{
    int count = 0;
    while (texts && texts[count]) count++;
    lgv_data_source *list = calloc((size_t)count + 1, sizeof *list);
    if (!list) return cli_error(self, CLI_FAILED, "out of memory");
    for (int i = 0; i < count; i++) {
        int code = read_source(self, texts[i], &list[i]);
        if (code < 0) continue;
        free(list);
        return code;
    }
    *out = list;
    *n = count;
    return -1;
}
