/* long_faults.c - tests/test_faults.c with a network of two levels and with every allocation and file call.
   long_faults [PART PARTS [SCENE]] plays every PARTS-th failure, from PART on, of scenes so named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "scenes.h"
#include "scratch.h"
#include "training.h"

static scale large = {.side = TRAINING_SIDE};

static void failing_allocations_are_reported(void **state)
{
    scenes_memory(&large);
}

static void failing_file_calls_are_reported(void **state)
{
    scenes_files(&large);
}

static int prepare(void **state)
{
    scenes_prepare(&large);
    return 0;
}

static int end(void **state)
{
    scenes_end();
    return scratch_remove(state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(failing_allocations_are_reported),
                                       cmocka_unit_test(failing_file_calls_are_reported)};
    if (argc > 2) {
        large.part = strtoull(argv[1], NULL, 10);
        large.parts = strtoull(argv[2], NULL, 10);
    }
    if (argc > 3) large.only = argv[3];
    return cmocka_run_group_tests(tests, prepare, end);
}
