/* main.c - the langevin program: finds the command and hands over. */
#include <string.h>

#include "cli.h"

static const cli_command *const commands[] = {&cli_train,  &cli_sample, &cli_info,
                                              &cli_verify, &cli_plan,   &cli_bench};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_usage(FILE *to)
{
    fprintf(
        to,
        "langevin " LGV_VERSION
        " - train and sample diffusion models of images\n\nUsage: langevin COMMAND [options]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(to, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\nlangevin COMMAND --help shows the options of a command, with examples.\n"
                "\nExamples:\n"
                "  langevin train --data pictures --output model\n"
                "  langevin sample model --output samples.png --num-images 16\n");
}

int main(int argc, const char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        print_usage(stdout);
        return CLI_OK;
    }
    if (!strcmp(name, "--version")) {
        printf("langevin " LGV_VERSION "\n");
        return CLI_OK;
    }
    for (int i = 0; i < COMMANDS; i++)
        if (!strcmp(name, commands[i]->name))
            return commands[i]->run(commands[i], argc - 1, argv + 1);
    return cli_error(NULL, CLI_USAGE, "'%s' is not a command; see 'langevin --help'", name);
}
