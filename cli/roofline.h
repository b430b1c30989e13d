/* roofline.h - the least time a machine could take for the nodes of a plan, and what it is expected to take. */
#ifndef LANGEVIN_CLI_ROOFLINE_H
#define LANGEVIN_CLI_ROOFLINE_H

#include "langevin/plan.h"

/* The least seconds for a node: its arithmetic at the peak of its type or its bytes at the stream's rate, whichever is longer;
   *by_flops tells which. Arithmetic is counted as written, so that Winograd may beat its floor. */
double cli_floor(const lgv_peaks *peaks, const lgv_node_info *node, bool *by_flops);

/* Per operator, how many times its floor it takes here. */
typedef struct cli_rates {
    lgv_peaks peaks;
    struct {
        char op[32];
        double floor, seconds; /* sums over the nodes of the calibration */
    } row[96];
    int rows;
} cli_rates;

/* Measures the peaks and runs a few steps of a small network (128 channels, 32x32, 2 rows), about a second. */
lgv_status cli_calibrate(lgv_device *device, int training, lgv_mixed_precision precision,
                         cli_rates *out, lgv_error *err);
/* Expected seconds of one run of every program of plan. *floor: the least. */
double cli_expected(const cli_rates *rates, const lgv_plan *plan, double *floor);

#endif
