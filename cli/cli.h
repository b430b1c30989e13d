/* cli.h - what the commands of the program share: options, messages, exit codes, signals.
   Only public headers of the library are used here. */
#ifndef LANGEVIN_CLI_H
#define LANGEVIN_CLI_H

#include <popt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "langevin/dataset.h"
#include "langevin/model.h"
#include "langevin/plan.h"
#include "langevin/status.h"
#include "langevin/version.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

typedef struct cli_command {
    const char *name;
    const char *summary;  /* one line */
    const char *usage;    /* after "langevin NAME" */
    const char *examples; /* shown at the end of --help */
    int (*run)(const struct cli_command *self, int argc,
               const char **argv); /* argv[0] is the command's name */
} cli_command;

extern const cli_command cli_train, cli_sample, cli_info, cli_verify, cli_plan, cli_bench, cli_eval,
    cli_convert;

/* --- Options ---------------------------------------------------------------------------------------- */
/* Options every command has. */
typedef struct cli_device_options {
    char *device; /* "cpu", "cpu:avx2" ... */
    int threads;
} cli_device_options;

/* Reads a command line. `table` ends in POPT_TABLEEND; '_' and '-' are the same in option names; --help prints
   usage, options and examples. seen (may be NULL) is called with the val of each option that has one.
   Up to max_positional arguments are returned (argv strings, borrowed), *n says how many.
   Returns -1 to go on, else the exit code (help shown, or a sentence on stderr). */
int cli_parse(const cli_command *self, struct poptOption *table, int argc, const char **argv,
              int max_positional, const char **positional, int *n,
              void (*seen)(void *user, int val), void *user);

/* How many letters must be changed, added or taken away to get from one word to the other, for "did you mean". */
int cli_distance(const char *a, const char *b);

/* Table rows for cli_device_options in a static struct called `dev`. */
#define CLI_DEVICE_OPTIONS(dev)                                                                    \
    {                                                                                              \
        "device",                                                                                  \
        0,                                                                                         \
        POPT_ARG_STRING,                                                                           \
        &(dev).device,                                                                             \
        0,                                                                                         \
        "cpu, cpu:scalar, cpu:avx2, cpu:avx512 or cpu:amx (default: the best here)",               \
        "NAME"},                                                                                   \
    {                                                                                              \
        "threads", 0, POPT_ARG_INT, &(dev).threads, 0,                                             \
            "threads (default: the physical cores this process may use)", "N"                      \
    }

/* The row for --mixed-precision, and its text (NULL: not stated) as a value; -1 to go on, else the exit code. */
#define CLI_PRECISION_OPTION(text)                                                                 \
    {                                                                                              \
        "mixed-precision", 0, POPT_ARG_STRING, &(text), 0,                                         \
            "bf16: activations and their gradients in 16 bits; no: in float32 (default)",          \
            "no|bf16"                                                                              \
    }
int cli_read_precision(const cli_command *self, const char *text, lgv_mixed_precision *out);
/* "float32" or "bf16 mixed precision", for the first lines. */
const char *cli_precision(lgv_mixed_precision m);
/* "cpu:avx2, 2 threads" in text. */
const char *cli_device_text(const lgv_device *device, char text[64]);

/* The texts of --data (POPT_ARG_ARGV; NULL: none), each PATH or PATH=WEIGHT, as sources; free(*out). -1 to go on,
   else the exit code. The texts are shortened and must live as long. */
int cli_read_sources(const cli_command *self, char **texts, lgv_data_source **out, int *n);

lgv_status cli_open_device(const cli_device_options *o, lgv_device **out, lgv_error *err);

/* A seed: 0 .. 2^64-1, or -1 to draw one (of 31 bits, so that it is short to type again). False when it is neither. */
bool cli_parse_seed(const char *text, uint64_t *seed);

/* The values of --seed, --weights and --memory-budget (NULL: not stated, *out then keeps its value or becomes
   LGV_WEIGHTS_BEST); -1 to go on, else the exit code. */
int cli_read_seed(const cli_command *self, const char *text, uint64_t *out);
int cli_read_weights(const cli_command *self, const char *text, lgv_model_weights *out);
int cli_read_budget(const cli_command *self, const char *text, size_t *out);

/* --- Manual pages and completion, from the same tables -------------------------------------------------- */
/* First words of a command's argv that cli_parse answers itself. */
#define CLI_MANUAL   "--man"
#define CLI_COMPLETE "--complete"
int cli_manual_page(const cli_command *self, const struct poptOption *table);
int cli_manual_overview(const cli_command *const *commands, int n);
int cli_complete_options(const cli_command *self, const struct poptOption *table, int argc,
                         const char **argv);
int cli_complete_commands(const cli_command *const *commands, int n, const char *word);

/* --- Messages ---------------------------------------------------------------------------------------- */
/* "langevin NAME: sentence" on stderr; returns code. */
int cli_error(const cli_command *self, int code, const char *fmt, ...) LGV_PRINTF(3, 4);
int cli_fail(const cli_command *self, const lgv_error *err); /* err->text, CLI_FAILED */
/* Fills err; returns status. */
lgv_status cli_status(lgv_error *err, lgv_status status, const char *fmt, ...) LGV_PRINTF(3, 4);

/* "1.5 GiB", "3 m 20 s", "35.7 M" into a caller's buffer of 32. */
const char *cli_bytes(double bytes, char text[32]);
const char *cli_duration(double seconds, char text[32]);
const char *cli_count(double n, char text[32]);
/* A word of a command line as a shell wants it, quoted where needed. */
void cli_print_word(const char *word);

/* --- Files -------------------------------------------------------------------------------------------- */
bool cli_ends_in(const char *path, const char *end); /* upper and lower case are the same */
/* NNNNNN.png, as `sample` and `train` number pictures: six digits or more. */
bool cli_numbered_png(const char *name, long long *number);
/* Whether a path holds a network's configuration (a model folder, or a .json file); other paths are pictures. */
bool cli_is_model(const char *path);
/* The demo model's folder, NULL: there is none. Where it is looked for: demo_model.c. */
const char *cli_demo_model(void);

/* --- JSON --------------------------------------------------------------------------------------------- */
/* Prints a document and drops it (json_t, of jansson). What --json prints is this and nothing else. */
struct json_t;
void cli_print_json(struct json_t *document);
/* A text as JSON, null for NULL; bytes that are no UTF-8 (paths may hold any) become '?'. */
struct json_t *cli_json_text(const char *text);

/* --- Signals ------------------------------------------------------------------------------------------ */
/* After this the first SIGINT, SIGTERM or SIGHUP only sets a flag; a second one exits at once. */
void cli_catch_signals(void);
int cli_signal(void); /* the signal received, SIGPIPE when stdout takes no more, 0 none */

#endif
