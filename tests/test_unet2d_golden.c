/* test_unet2d_golden.c - outputs and parameter gradients of UNet2DModel against diffusers, for
   every configuration of tools/golden/unet2d.py, on every level of this machine's processor.
   Tolerances: output 1e-5 of its largest entry (float32 sums in another order: PyTorch's own
   float32 run is that far from float64); gradients 1e-4 by verify's rule (design.md 7). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "network.h"
#include "ok.h"
#include "scratch.h"

static const char *const names[] = {
    "plain",
    "ddpm_cifar10",
    "demo",
    "attention",
    "head_dim",
    "resnet_samplers",
    "resnet_samplers_default",
    "skip",
    "skip_nogroups",
    "skip_mixed",
    "learned",
    "class_table",
    "class_timestep",
    "class_identity",
    "fourier_class",
    "scale_shift",
    "scale_shift_norm",
    "no_mid",
    "odd_channels",
    "one_level",
    "k_blocks",
};
static const char *const levels[] = {"scalar", "avx2", "avx512"};
enum {
    NAMES = sizeof names / sizeof names[0],
    LEVELS = sizeof levels / sizeof levels[0],
    TESTS = NAMES * (LEVELS + 1)
};

typedef struct one_case {
    const char *name, *level;
    int no_fusion;
    char title[64];
} one_case;

static void golden(void **state)
{
    const one_case *c = *state;
    network r;
    char worst[128], spec[32];
    if (!lgv_cpu_has(c->level)) {
        print_message("this processor has no %s\n", c->level);
        skip();
    }
    snprintf(spec, sizeof spec, "cpu:%s", c->level);
    network_open(&r, c->name);
    network_plan(&r, spec, 1, &(lgv_plan_options){.no_fusion = c->no_fusion});
    network_write_inputs(&r);
    MUST(lgv_plan_run(r.plan, NULL, err));
    double out = network_output_error(&r), grad = network_gradient_error(&r, worst);
    print_message("%s: output %.1e, gradients %.1e (%s)\n", c->title, out, grad, worst);
    assert_true(out <= 1e-5);
    assert_true(grad <= 1e-4);
    network_close(&r);
}

int main(void)
{
    static one_case cases[TESTS];
    static struct CMUnitTest tests[TESTS];
    for (int i = 0; i < TESTS; i++) {
        one_case *c = &cases[i];
        c->name = names[i % NAMES];
        c->no_fusion = i / NAMES == LEVELS;
        c->level = levels[c->no_fusion ? 0 : i / NAMES];
        snprintf(c->title, sizeof c->title, "%s, %s%s", c->name, c->level,
                 c->no_fusion ? ", passes off" : "");
        tests[i] = (struct CMUnitTest){.name = c->title, .test_func = golden, .initial_state = c};
    }
    return _cmocka_run_group_tests("unet2d_golden", tests, TESTS, NULL, scratch_remove);
}
