/* long_precision.c - training in bf16 ends where training in float32 ends: a small network, several seeds, the mean
   loss of the last third. Two seeds differ by more than the two precisions of one seed do. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "scratch.h"
#include "training.h"

enum { SEEDS = 4, STEPS = 150, TAIL = 50, PICTURES = 64 };

static double final_loss(uint64_t seed, lgv_mixed_precision precision)
{
    double loss[STEPS], sum = 0;
    training *t = training_new(&(training_setup){.data = scratch_path("pictures"),
                                                 .threads = 2,
                                                 .options = {.train_batch_size = 16,
                                                             .learning_rate = 2e-3,
                                                             .lr_warmup_steps = 10,
                                                             .max_train_steps = STEPS,
                                                             .mixed_precision = precision,
                                                             .seed = seed}});
    training_steps(t, STEPS, loss);
    training_free(t);
    for (int i = STEPS - TAIL; i < STEPS; i++) sum += loss[i];
    return sum / TAIL;
}

static void bf16_ends_at_the_loss_of_float32(void **state)
{
    double least = INFINITY, most = 0, mean = 0, mean_bf16 = 0, apart = 0;
    (void)state;
    training_pictures("pictures", PICTURES, TRAINING_SIDE, TRAINING_CHANNELS);
    for (int i = 0; i < SEEDS; i++) {
        double a = final_loss((uint64_t)i, LGV_MIXED_NO),
               b = final_loss((uint64_t)i, LGV_MIXED_BF16);
        print_message("seed %d: float32 %.4f, bf16 %.4f\n", i, a, b);
        least = fmin(least, a);
        most = fmax(most, a);
        mean += a / SEEDS;
        mean_bf16 += b / SEEDS;
        apart = fmax(apart, fabs(a - b));
    }
    print_message("means %.4f and %.4f, spread over seeds %.4f, precisions at most %.4f apart\n",
                  mean, mean_bf16, most - least, apart);
    assert_true(mean < 0.5); /* it learns something */
    assert_true(fabs(mean - mean_bf16) <= (most - least) / 2);
    assert_true(apart <= most - least);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bf16_ends_at_the_loss_of_float32)};
    return cmocka_run_group_tests_name("long_precision", tests, NULL, scratch_remove);
}
