/* manual.c - manual pages, written from what --help is written from, so that they cannot drift. The build calls
   `langevin help --man [COMMAND]` for each page it installs. */
#include <string.h>

#include "cli.h"

/* Text as roff wants it: a hyphen that is a minus, no control lines. */
static void put(const char *text)
{
    for (const char *p = text; *p; p++) {
        if ((*p == '.' || *p == '\'') && (p == text || p[-1] == '\n')) fputs("\\&", stdout);
        if (*p == '-')
            fputs("\\-", stdout);
        else if (*p == '\\')
            fputs("\\e", stdout);
        else
            putchar(*p);
    }
}

static void heading(const char *page)
{
    printf(".TH ");
    for (const char *p = page; *p; p++) putchar(*p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p);
    printf(" 1 \"\" \"langevin " LGV_VERSION "\" \"User Commands\"\n.SH NAME\n");
}

static void option(const struct poptOption *o)
{
    printf(".TP\n");
    if (o->shortName) printf("\\fB\\-%c\\fR, ", o->shortName);
    printf("\\fB\\-\\-");
    put(o->longName);
    printf("\\fR");
    if (o->argDescrip) {
        printf("=\\fI");
        put(o->argDescrip);
        printf("\\fR");
    }
    printf("\n");
    put(o->descrip ? o->descrip : "");
    printf("\n");
}

static void ending(void)
{
    printf(".SH \"EXIT STATUS\"\n"
           "0: done. 1: failed; one sentence on standard error says what, where and what to do. "
           "2: the command line makes no sense.\n"
           "A command that SIGINT, SIGTERM or SIGHUP stopped saves its work and ends with 128 plus "
           "the signal's number.\n"
           ".SH ENVIRONMENT\n.TP\n.B LANGEVIN_CPU\n"
           "Lowers the level of device \"cpu\": scalar, avx2, avx512 or amx.\n"
           ".TP\n.B LANGEVIN_DATA\n"
           "Folder that is searched first for the demo model (in its folder demo\\-model), which "
           "\\fBlangevin sample\\fR takes when no model is named.\n"
           ".TP\n.B NO_COLOR\nWhen it is not empty, nothing is printed in colour.\n");
}

int cli_manual_page(const cli_command *self, const struct poptOption *table)
{
    char page[64];
    snprintf(page, sizeof page, "langevin-%s", self->name);
    heading(page);
    put(page);
    printf(" \\- ");
    put(self->summary);
    printf("\n.SH SYNOPSIS\n.B langevin\n");
    put(self->usage);
    printf(" [options]\n.SH OPTIONS\n");
    for (const struct poptOption *o = table; o->longName || o->shortName || o->arg; o++)
        if (o->longName && !(o->argInfo & POPT_ARGFLAG_DOC_HIDDEN)) option(o);
    printf(".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nthis text\n");
    if (self->examples) {
        printf(".SH EXAMPLES\n.nf\n");
        put(self->examples);
        printf(".fi\n");
    }
    ending();
    printf(".SH \"SEE ALSO\"\n.BR langevin (1)\n");
    return CLI_OK;
}

int cli_manual_overview(const cli_command *const *commands, int n)
{
    heading("langevin");
    printf("langevin \\- train and sample diffusion models of images\n"
           ".SH SYNOPSIS\n.B langevin\n.I COMMAND\n[options]\n.SH COMMANDS\n");
    for (int i = 0; i < n; i++) {
        printf(".TP\n.BR langevin\\-%s (1)\n", commands[i]->name);
        put(commands[i]->summary);
        printf("\n");
    }
    printf(".PP\n\\fBlangevin help\\fR \\fICOMMAND\\fR shows the options of a command, "
           "with examples.\n");
    ending();
    printf(".SH \"SEE ALSO\"\n");
    for (int i = 0; i < n; i++)
        printf(".BR langevin\\-%s (1)%s\n", commands[i]->name, i + 1 < n ? "," : "");
    return CLI_OK;
}
