/* roofline.c - floors of nodes from measured peaks, and times from a calibration: each operator is expected to
   stay as far from its floor as it did in a small network on this machine. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "network.h"
#include "roofline.h"

double cli_floor(const lgv_peaks *peaks, const lgv_node_info *node, bool *by_flops)
{
    bool matrix = node->dtype == LGV_BF16 && peaks->matrix_flops > 0;
    double arithmetic = node->flops / (matrix ? peaks->matrix_flops : peaks->flops),
           traffic = node->bytes / peaks->bytes;
    *by_flops = arithmetic >= traffic;
    return *by_flops ? arithmetic : traffic;
}

static int row_of(const cli_rates *r, const char *op)
{
    int i = 0;
    while (i < r->rows && strcmp(r->row[i].op, op)) i++;
    return i;
}

static void collect(cli_rates *r, const lgv_plan *plan)
{
    bool by_flops;
    for (int i = 0; i < lgv_plan_nodes(plan); i++) {
        lgv_node_info node;
        lgv_plan_node_at(plan, i, &node);
        int k = row_of(r, node.op);
        if (!node.runs || k == (int)(sizeof r->row / sizeof *r->row)) continue;
        if (k == r->rows) snprintf(r->row[r->rows++].op, sizeof r->row->op, "%s", node.op);
        r->row[k].floor += cli_floor(&r->peaks, &node, &by_flops);
        r->row[k].seconds += node.seconds / (double)node.runs;
    }
}

lgv_status cli_calibrate(lgv_device *device, int training, lgv_mixed_precision precision,
                         cli_rates *out, lgv_error *err)
{
    lgv_unet2d_config config;
    lgv_model *model = NULL;
    cli_network n = {0};
    const lgv_plan_options options = {.mixed_precision = precision};
    *out = (cli_rates){.rows = 0};
    lgv_unet2d_config_default(&config);
    config.levels = 2;
    config.block_out_channels[0] = config.block_out_channels[1] = 128;
    config.down_block_types[0] = config.up_block_types[1] = LGV_BLOCK_PLAIN;
    config.down_block_types[1] = config.up_block_types[0] = LGV_BLOCK_ATTN;
    config.layers_per_block = 1;
    lgv_status status = lgv_device_peaks(device, &out->peaks, err);
    if (!status) status = lgv_model_new_unet2d(&config, &model, err);
    if (!status) status = cli_network_new(model, device, training, 0, 2, 32, 32, &options, &n, err);
    if (!status) status = cli_network_step(&n, err); /* warm-up */
    if (!status) lgv_plan_profile(n.plan, 1);
    for (int i = 0; i < 3 && !status; i++) status = cli_network_step(&n, err);
    if (!status) collect(out, n.plan);
    cli_network_free(&n);
    lgv_model_free(model);
    return status;
}

double cli_expected(const cli_rates *r, const lgv_plan *plan, double *floor)
{
    double total = 0;
    *floor = 0;
    for (int i = 0; i < lgv_plan_nodes(plan); i++) {
        lgv_node_info node;
        bool by_flops;
        lgv_plan_node_at(plan, i, &node);
        if (!node.kernel[0] || !strcmp(node.kernel, "view")) continue;
        double least = cli_floor(&r->peaks, &node, &by_flops);
        int k = row_of(r, node.op);
        *floor += least;
        total += k < r->rows && r->row[k].floor > 0 ? least * r->row[k].seconds / r->row[k].floor
                                                    : least;
    }
    return total;
}
