/* long_elementary.c - every float through exp, tanh, erf and the activations made of them, at every level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "elementary_sweep.h"

static void all_floats(void **state)
{
    sweep_floats(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_floats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
