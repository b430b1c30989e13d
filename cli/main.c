/* main.c - the langevin program: finds the command and hands over. */
#include <string.h>

#include "cli.h"

static const cli_command *const commands[] = {&cli_train, &cli_sample, &cli_info, &cli_verify,
                                              &cli_plan,  &cli_bench,  &cli_eval, &cli_convert};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_usage(FILE *to)
{
    fprintf(
        to,
        "langevin " LGV_VERSION
        " - train and sample diffusion models of images\n\nUsage: langevin COMMAND [options]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(to, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\nlangevin help COMMAND shows the options of a command, with examples.\n"
                "\nExamples:\n"
                "  langevin train --data pictures --output model\n"
                "  langevin sample model --output samples.png --num-images 16\n");
}

static int run(const char *name, int argc, const char **argv)
{
    for (int i = 0; i < COMMANDS; i++)
        if (!strcmp(name, commands[i]->name)) return commands[i]->run(commands[i], argc, argv);
    const char *near = NULL;
    int least = 1 + (int)strlen(name) / 2;
    for (int i = 0; i < COMMANDS; i++) {
        int d = cli_distance(name, commands[i]->name);
        if (d >= least) continue;
        least = d;
        near = commands[i]->name;
    }
    if (near)
        return cli_error(NULL, CLI_USAGE, "'%s' is not a command; did you mean '%s'?", name, near);
    return cli_error(NULL, CLI_USAGE, "'%s' is not a command; see 'langevin --help'", name);
}

/* help [COMMAND]; and for the build and the shell: help --man [COMMAND], help --complete WORD... */
static int help(int argc, const char **argv)
{
    const char *what = argc > 0 ? argv[0] : "";
    if (!strcmp(what, CLI_COMPLETE)) {
        if (argc < 3) return cli_complete_commands(commands, COMMANDS, argc > 1 ? argv[1] : "");
        const char *command = argv[1];
        for (int i = 0; i < COMMANDS; i++)
            if (!strcmp(command, commands[i]->name)) {
                argv[1] = CLI_COMPLETE;
                return commands[i]->run(commands[i], argc, argv);
            }
        if (!strcmp(command, "help") && argc == 3)
            cli_complete_commands(commands, COMMANDS, argv[2]);
        return CLI_OK;
    }
    if (!strcmp(what, CLI_MANUAL)) {
        if (argc < 2) return cli_manual_overview(commands, COMMANDS);
        return run(argv[1], 2, (const char *[]){argv[1], CLI_MANUAL, NULL});
    }
    if (argc > 0) return run(what, 2, (const char *[]){what, "--help", NULL});
    print_usage(stdout);
    return CLI_OK;
}

int main(int argc, const char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "help")) return help(argc - 2, argv + 2);
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) return help(0, NULL);
    if (!strcmp(name, "--version")) {
        printf("langevin %s\n", lgv_version());
        return CLI_OK;
    }
    return run(name, argc - 1, argv + 1);
}
