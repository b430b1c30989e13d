/* complete.c - what could stand next on a command line, for the shell's completion. The candidates come from the
   option tables and from the library's own lists, so that they cannot drift from what is accepted.

   `langevin help --complete WORD...` gets the words after "langevin" up to the cursor as bash splits them, that is
   also at '=' and ':', and prints one candidate a line: what replaces the last of these words. The lines
   ":files" and ":folders" ask the shell for those. */
#include <string.h>

#include "cli.h"
#include "langevin/model.h"
#include "langevin/sampler.h"
#include "langevin/schedule.h"
#include "langevin/train.h"

enum { WORD = 4096 };

/* The word being completed, and how much of it bash keeps. */
typedef struct target {
    char word[WORD];
    size_t kept;
} target;

static void offer(const target *t, const char *text)
{
    if (!strncmp(text, t->word, strlen(t->word))) printf("%s\n", text + t->kept);
}

/* Whether the last word of argv belongs to an option's value, and which: joins what bash split at '=' and ':'.
   previous: the word before, "" for none. */
static bool gather(int argc, const char **argv, char previous[WORD], target *t)
{
    previous[0] = 0;
    memset(t, 0, sizeof *t);
    for (int i = 0; i < argc; i++) {
        bool separator = !strcmp(argv[i], "=") || !strcmp(argv[i], ":");
        bool after = i && (!strcmp(argv[i - 1], "=") || !strcmp(argv[i - 1], ":"));
        if (!separator && !after) {
            memcpy(previous, t->word, sizeof t->word);
            t->word[0] = 0;
            t->kept = 0;
        }
        size_t used = strlen(t->word), n = strlen(argv[i]);
        if (used + n >= WORD) return false;
        if (i + 1 == argc && after) t->kept = used;
        memcpy(t->word + used, argv[i], n + 1);
        if (separator && i + 1 == argc) t->kept = used + n;
    }
    return true;
}

/* --- Values of options ---------------------------------------------------------------------------------- */
static void offer_devices(const target *t)
{
    static const char *const level[] = {"scalar", "avx2", "avx512", "amx"};
    offer(t, "cpu");
    for (size_t i = 0; i < sizeof level / sizeof *level; i++) {
        char name[32];
        snprintf(name, sizeof name, "cpu:%s", level[i]);
        if (lgv_cpu_has(level[i])) offer(t, name);
    }
}

static void offer_models(const target *t)
{
    const char *name;
    for (int i = 0; (name = lgv_model_presets(i, NULL)); i++) offer(t, name);
    printf(":files\n");
}

static void offer_samplers(const target *t)
{
    for (int i = 0; i < lgv_sampler_count(); i++) offer(t, lgv_sampler_at(i)->name);
    offer(t, "model");
}

static void offer_lr_schedulers(const target *t)
{
    for (int i = LGV_LR_CONSTANT; i <= LGV_LR_POLYNOMIAL; i++)
        offer(t, lgv_lr_scheduler_name((lgv_lr_scheduler)i));
}

static void offer_beta_schedules(const target *t)
{
    for (int i = LGV_BETA_LINEAR; i <= LGV_BETA_LAPLACE; i++)
        offer(t, lgv_beta_schedule_name((lgv_beta_schedule)i));
}

static void offer_predictions(const target *t)
{
    for (int i = LGV_PREDICT_EPSILON; i <= LGV_PREDICT_V; i++)
        offer(t, lgv_prediction_name((lgv_prediction)i));
    offer(t, "flow");
    offer(t, "edm");
}

/* Options whose values are a list of the library's. */
static const struct {
    const char *option;
    void (*offer)(const target *t);
} lists[] = {
    {"device", offer_devices},
    {"model", offer_models},
    {"sampler", offer_samplers},
    {"lr-scheduler", offer_lr_schedulers},
    {"beta-schedule", offer_beta_schedules},
    {"prediction-type", offer_predictions},
};

/* What the help calls the value: "no|bf16" are words to type, capitals say what kind of thing it is. */
static void offer_described(const target *t, const char *description)
{
    for (const char *p = description; *p; p += strcspn(p, "|"), p += *p == '|') {
        char word[WORD];
        snprintf(word, sizeof word, "%.*s", (int)strcspn(p, "|"), p);
        if (!strncmp(word, "FILE", 4) || !strncmp(word, "PATH", 4) || !strcmp(word, "DATA"))
            printf(":files\n");
        else if (!strcmp(word, "DIR"))
            printf(":folders\n");
        else if (!strcmp(word, "MODEL"))
            offer_models(t);
        else if (word[0] >= 'a' && word[0] <= 'z')
            offer(t, word);
    }
}

static void offer_value(const target *t, const struct poptOption *o)
{
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (!strcmp(o->longName, lists[i].option)) {
            lists[i].offer(t);
            return;
        }
    offer_described(t, o->argDescrip ? o->argDescrip : "");
}

/* --- Options and commands --------------------------------------------------------------------------------- */
/* The option that `word` ("--data", "--data=", "-o") names and that takes a value, NULL for none. */
static const struct poptOption *valued(const struct poptOption *table, const char *word)
{
    char name[64];
    if (word[0] != '-') return NULL;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
    for (char *p = name + 2; name[1] == '-' && *p; p++)
        if (*p == '_') *p = '-';
    for (const struct poptOption *o = table; o->longName || o->shortName || o->arg; o++) {
        if ((o->argInfo & POPT_ARG_MASK) == POPT_ARG_NONE) continue;
        if (name[1] == '-' ? o->longName && !strcmp(name + 2, o->longName)
                           : o->shortName && name[1] == o->shortName && !name[2])
            return o;
    }
    return NULL;
}

static void offer_options(const target *t, const struct poptOption *table)
{
    char name[64];
    for (const struct poptOption *o = table; o->longName || o->shortName || o->arg; o++) {
        if (!o->longName || o->argInfo & POPT_ARGFLAG_DOC_HIDDEN) continue;
        snprintf(name, sizeof name, "--%s", o->longName);
        offer(t, name);
    }
    offer(t, "--help");
}

int cli_complete_options(const cli_command *self, const struct poptOption *table, int argc,
                         const char **argv)
{
    char previous[WORD];
    target t;
    if (!gather(argc, argv, previous, &t)) return CLI_OK;
    size_t name = strcspn(t.word, "=");
    const struct poptOption *o = NULL;
    if (t.word[0] == '-' && t.word[name] == '=') {
        if (!(o = valued(table, t.word))) return CLI_OK;
        memmove(t.word, t.word + name + 1, strlen(t.word + name + 1) + 1);
        t.kept = t.kept > name ? t.kept - name - 1 : 0;
    } else if (!strchr(previous, '=')) {
        o = valued(table, previous);
    }
    if (o)
        offer_value(&t, o);
    else if (t.word[0] == '-')
        offer_options(&t, table);
    else {
        /* What the usage line names right after the command: "sample [MODEL] --output ..." */
        char what[64] = "";
        sscanf(self->usage, "%*s %63[][A-Z|]", what);
        if (what[0] == '[') memmove(what, what + 1, strlen(what));
        what[strcspn(what, "]")] = 0;
        offer_described(&t, what);
    }
    return CLI_OK;
}

int cli_complete_commands(const cli_command *const *commands, int n, const char *word)
{
    target t = {.kept = 0};
    snprintf(t.word, sizeof t.word, "%s", word);
    for (int i = 0; i < n; i++) offer(&t, commands[i]->name);
    offer(&t, "help");
    offer(&t, "--help");
    offer(&t, "--version");
    return CLI_OK;
}
