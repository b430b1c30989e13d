/* test_vector_elementary.c - one float in 1021 through what long_elementary.c tests over all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "elementary_sweep.h"

static void some_floats(void **state)
{
    sweep_floats(1021);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(some_floats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
