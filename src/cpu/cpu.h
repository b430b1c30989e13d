/* cpu.h - what the files of the CPU device share. */
#ifndef LGV_CPU_H
#define LGV_CPU_H

#include "peak.h"
#include "plan/backend.h"

lgv_status lgv_cpu_peaks(lgv_device *d, const lgv_peak_loops *loops, lgv_peaks *out,
                         lgv_error *err);

#endif
