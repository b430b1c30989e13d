/* common.c - options, messages, sizes and signals for all commands. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

/* --- Messages ---------------------------------------------------------------------------------------- */
int cli_error(const cli_command *self, int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "langevin%s%s: ", self ? " " : "", self ? self->name : "");
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    return code;
}

int cli_fail(const cli_command *self, const lgv_error *err)
{
    return cli_error(self, CLI_FAILED, "%s", err->text[0] ? err->text : "out of memory");
}

lgv_status cli_status(lgv_error *err, lgv_status status, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    return err->status = status;
}

const char *cli_bytes(double bytes, char text[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (bytes >= 1024 && u < 4) {
        bytes /= 1024;
        u++;
    }
    snprintf(text, 32, u && bytes < 100 ? "%.1f %s" : "%.0f %s", bytes, units[u]);
    return text;
}

const char *cli_duration(double seconds, char text[32])
{
    long s = (long)(seconds + 0.5);
    if (seconds < 10)
        snprintf(text, 32, "%.2g s", seconds);
    else if (s < 60)
        snprintf(text, 32, "%ld s", s);
    else if (s < 3600)
        snprintf(text, 32, "%ld min %02ld s", s / 60, s % 60);
    else
        snprintf(text, 32, "%ld h %02ld min", s / 3600, s % 3600 / 60);
    return text;
}

const char *cli_count(double n, char text[32])
{
    if (n < 1e4)
        snprintf(text, 32, "%.0f", n);
    else if (n < 1e6)
        snprintf(text, 32, "%.1f k", n / 1e3);
    else if (n < 1e9)
        snprintf(text, 32, "%.2f M", n / 1e6);
    else if (n < 1e12)
        snprintf(text, 32, "%.2f G", n / 1e9);
    else
        snprintf(text, 32, "%.2f T", n / 1e12);
    return text;
}

void cli_print_word(const char *word)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./,:@%";
    if (*word && word[strspn(word, plain)] == 0) {
        fputs(word, stdout);
        return;
    }
    putchar('\'');
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*word);
    putchar('\'');
}

/* --- Options ------------------------------------------------------------------------------------------ */
int cli_distance(const char *a, const char *b)
{
    int row[64];
    int n = (int)strlen(b);
    if (n > 62) return 99;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

/* Whether the words of `part`, joined by '-', are words of `whole` in the same order. */
static bool has_words(const char *whole, const char *part)
{
    while (*part && *whole) {
        size_t n = strcspn(part, "-"), m = strcspn(whole, "-");
        if (n == m && !strncmp(part, whole, n)) part += n + (part[n] == '-');
        whole += m + (whole[m] == '-');
    }
    return !*part;
}

/* Names that other programs have for what an option here does. */
static const char *const elsewhere[][2] = {{"steps", "max-train-steps"},
                                           {"steps", "num-inference-steps"},
                                           {"iterations", "max-train-steps"},
                                           {"lr", "learning-rate"},
                                           {"size", "resolution"},
                                           {"image-size", "resolution"},
                                           {"bf16", "mixed-precision"},
                                           {"fp16", "mixed-precision"},
                                           {"n", "num-images"},
                                           {"scheduler", "sampler"},
                                           {"cfg", "guidance-scale"},
                                           {"cfg-scale", "guidance-scale"},
                                           {"label", "class"},
                                           {"prompt", "class"},
                                           {"gpu", "device"},
                                           {"workers", "threads"},
                                           {"num-workers", "threads"},
                                           {"dataset", "data"},
                                           {"train-data", "data"}};

static bool is_elsewhere(const char *name, const char *option)
{
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
        if (!strcmp(elsewhere[i][0], name) && !strcmp(elsewhere[i][1], option)) return true;
    return false;
}

static const char *nearest(const struct poptOption *table, const char *name)
{
    const char *best = NULL;
    int least = 1 + (int)strlen(name) / 2;
    for (const struct poptOption *o = table; o->longName || o->shortName || o->arg; o++) {
        if (!o->longName) continue;
        int d = is_elsewhere(name, o->longName)             ? 0
                : !strncmp(o->longName, name, strlen(name)) ? 1
                : has_words(o->longName, name)              ? 1
                                                            : cli_distance(name, o->longName);
        if (d < least) {
            least = d;
            best = o->longName;
        }
    }
    return best;
}

/* --some_option=x_y becomes --some-option=x_y. The copies belong to the returned block. */
static const char **normalise(int argc, const char **argv)
{
    size_t bytes = ((size_t)argc + 1) * sizeof(char *);
    for (int i = 0; i < argc; i++) bytes += strlen(argv[i]) + 1;
    const char **out = malloc(bytes);
    if (!out) return NULL;
    char *text = (char *)(out + argc + 1);
    bool options = true;
    for (int i = 0; i < argc; i++) {
        size_t n = strlen(argv[i]) + 1;
        memcpy(text, argv[i], n);
        if (!strcmp(text, "--")) options = false;
        if (options && !strncmp(text, "--", 2))
            for (char *p = text + 2; *p && *p != '='; p++)
                if (*p == '_') *p = '-';
        out[i] = text;
        text += n;
    }
    out[argc] = NULL;
    return out;
}

/* popt's copy of an argument goes with its context; ours stays. */
static const char *own(const char **args, const char *argument)
{
    while (*args && strcmp(*args, argument)) args++;
    return *args;
}

static void print_help(const cli_command *self, poptContext context)
{
    printf("langevin %s - %s\n\n", self->name, self->summary);
    poptPrintHelp(context, stdout, 0);
    if (self->examples) printf("\nExamples:\n%s", self->examples);
}

/* popt names the value where that stands alone: "--steps fast" is told as 'fast'. */
static int bad_value(const cli_command *self, const char *option, const char **argv, int rc)
{
    const char *value = strchr(option, '='), *name = option;
    for (int i = 1; argv[i] && option[0] != '-'; i++)
        if (!strcmp(argv[i], option)) name = argv[i - 1], value = option;
    if (!value || (rc != POPT_ERROR_BADNUMBER && rc != POPT_ERROR_OVERFLOW))
        return cli_error(self, CLI_USAGE, "option '%s': %s", name, poptStrerror(rc));
    return cli_error(self, CLI_USAGE, "option '%.*s': '%s' is %s", (int)strcspn(name, "="), name,
                     value + (*value == '='),
                     rc == POPT_ERROR_OVERFLOW ? "too large" : "not a number of the right kind");
}

static int bad_option(const cli_command *self, const struct poptOption *table, const char **argv,
                      poptContext context, int rc)
{
    const char *option = poptBadOption(context, POPT_BADOPTION_NOALIAS);
    if (rc == POPT_ERROR_BADOPT) {
        const char *name = option;
        while (*name == '-') name++;
        char bare[64];
        snprintf(bare, sizeof bare, "%.*s", (int)strcspn(name, "="), name);
        const char *near = nearest(table, bare);
        if (near)
            return cli_error(self, CLI_USAGE, "unknown option '%s'; did you mean '--%s'?", option,
                             near);
        return cli_error(self, CLI_USAGE, "unknown option '%s'; see 'langevin %s --help'", option,
                         self->name);
    }
    return bad_value(self, option, argv, rc);
}

int cli_parse(const cli_command *self, struct poptOption *table, int argc, const char **argv,
              int max_positional, const char **positional, int *n,
              void (*seen)(void *user, int val), void *user)
{
    enum { HELP = 1 << 30 };
    struct poptOption all[] = {
        {NULL, 0, POPT_ARG_INCLUDE_TABLE, table, 0, "Options:", NULL},
        {"help", 'h', POPT_ARG_NONE, NULL, HELP, "this text", NULL},
        POPT_TABLEEND,
    };
    if (argc > 1 && !strcmp(argv[1], CLI_MANUAL)) return cli_manual_page(self, table);
    if (argc > 1 && !strcmp(argv[1], CLI_COMPLETE))
        return cli_complete_options(self, table, argc - 2, argv + 2);
    /* The normalised copies stay for the life of the process: the caller keeps pointers into them. */
    static const char **args;
    args = normalise(argc, argv);
    if (args && argc) args[0] = "langevin"; /* usage lines name the program, then the command */
    poptContext context = args ? poptGetContext("langevin", argc, args, all, 0) : NULL;
    if (!context) return cli_error(self, CLI_FAILED, "out of memory");
    poptSetOtherOptionHelp(context, self->usage);
    int rc, code = -1;
    while ((rc = poptGetNextOpt(context)) >= 0) {
        if (rc == HELP) {
            print_help(self, context);
            code = CLI_OK;
            break;
        }
        if (seen) seen(user, rc);
    }
    if (rc < -1) code = bad_option(self, table, args, context, rc);
    *n = 0;
    const char *argument;
    while (code < 0 && (argument = poptGetArg(context))) {
        if (*n == max_positional)
            code = cli_error(self, CLI_USAGE,
                             "'%s' is one argument too many; see 'langevin %s --help'", argument,
                             self->name);
        else
            positional[(*n)++] = own(args, argument);
    }
    poptFreeContext(context);
    return code;
}

int cli_read_precision(const cli_command *self, const char *text, lgv_mixed_precision *out)
{
    lgv_error err;
    if (!text || !lgv_mixed_precision_parse(text, out, &err)) return -1;
    return cli_error(self, CLI_USAGE, "--mixed-precision: %s", err.text);
}

int cli_read_seed(const cli_command *self, const char *text, uint64_t *out)
{
    if (!text || cli_parse_seed(text, out)) return -1;
    return cli_error(self, CLI_USAGE,
                     "--seed must be a whole number from 0 up, or -1 to draw one, not '%s'", text);
}

int cli_read_weights(const cli_command *self, const char *text, lgv_model_weights *out)
{
    if (!text)
        *out = LGV_WEIGHTS_BEST;
    else if (!strcmp(text, "ema"))
        *out = LGV_WEIGHTS_EMA;
    else if (!strcmp(text, "raw"))
        *out = LGV_WEIGHTS_RAW;
    else
        return cli_error(self, CLI_USAGE, "--weights is ema or raw, not '%s'", text);
    return -1;
}

/* "512M", "2G", "1.5GiB", plain bytes. False when it is not a size. */
static bool parse_size(const char *text, size_t *bytes)
{
    char *end;
    double v = strtod(text, &end);
    static const char units[] = "BKMGT";
    if (end == text || !(v >= 0)) return false;
    while (*end == ' ') end++;
    if (*end) {
        const char *u = strchr(units, toupper((unsigned char)*end));
        if (!u) return false;
        for (long i = u - units; i > 0; i--) v *= 1024;
        end++;
        if (*end == 'i') end++;
        if (*end == 'B' || *end == 'b') end++;
        if (*end) return false;
    }
    if (v > 9e18) return false;
    *bytes = (size_t)v;
    return true;
}

int cli_read_budget(const cli_command *self, const char *text, size_t *out)
{
    if (!text || (parse_size(text, out) && *out)) return -1;
    return cli_error(self, CLI_USAGE, "--memory-budget must be a size such as 2G or 800M, not '%s'",
                     text);
}

const char *cli_device_text(const lgv_device *device, char text[64])
{
    int threads = lgv_device_threads(device);
    snprintf(text, 64, "%s, %d thread%s", lgv_device_name(device), threads,
             threads == 1 ? "" : "s");
    return text;
}

const char *cli_precision(lgv_mixed_precision m)
{
    return m == LGV_MIXED_BF16 ? "bf16 mixed precision" : "float32";
}

lgv_status cli_open_device(const cli_device_options *o, lgv_device **out, lgv_error *err)
{
    return lgv_device_new(o->device, o->threads, out, err);
}

bool cli_parse_seed(const char *text, uint64_t *seed)
{
    char *end;
    errno = 0;
    if (!strcmp(text, "-1")) {
        uint32_t drawn;
        if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
            drawn = (uint32_t)time(NULL);
        *seed = drawn >> 1;
        return true;
    }
    if (*text < '0' || *text > '9') return false;
    *seed = strtoull(text, &end, 10);
    return !*end && !errno;
}

/* --- Files -------------------------------------------------------------------------------------------- */
bool cli_ends_in(const char *path, const char *end)
{
    size_t n = strlen(path), m = strlen(end);
    return n > m && !strcasecmp(path + n - m, end);
}

bool cli_numbered_png(const char *name, long long *number)
{
    size_t digits = strspn(name, "0123456789");
    if (digits < 6 || digits > 15 || strcmp(name + digits, ".png")) return false;
    *number = strtoll(name, NULL, 10);
    return true;
}

/* path/nameend can be read. */
static bool holds(const char *path, const char *name, const char *end)
{
    char text[4096];
    int n = snprintf(text, sizeof text, "%s/%s%s", path, name, end);
    return n > 0 && (size_t)n < sizeof text && !access(text, R_OK);
}

bool cli_is_model(const char *path)
{
    const char *component;
    if (cli_ends_in(path, ".json")) return !access(path, R_OK);
    if (holds(path, "config.json", "") || holds(path, "model_index.json", "")) return true;
    for (int i = 0; (component = lgv_model_components(i)) != NULL; i++)
        if (holds(path, component, "/config.json") || holds(path, component, "_ema/config.json"))
            return true;
    return false;
}

/* --- JSON --------------------------------------------------------------------------------------------- */
void cli_print_json(json_t *document)
{
    json_dumpf(document, stdout, JSON_INDENT(2));
    printf("\n");
    fflush(stdout);
    json_decref(document);
}

json_t *cli_json_text(const char *text)
{
    json_t *out = text ? json_string(text) : json_null();
    char *copy = out ? NULL : strdup(text);
    for (char *p = copy; p && *p; p++)
        if (*p & 0x80) *p = '?';
    if (copy) out = json_string(copy);
    free(copy);
    return out;
}

/* --- Signals ------------------------------------------------------------------------------------------ */
static volatile sig_atomic_t received;

static void on_signal(int signal_number)
{
    if (received) _exit(128 + signal_number);
    received = signal_number;
}

void cli_catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* seen as an error of stdout, below: there is work to save first */
}

int cli_signal(void)
{
    return received ? received : ferror(stdout) ? SIGPIPE : 0;
}
