/* elementary.h - own elementary functions, the same bits on every machine (compiled without contraction,
   no libm): schedules, random numbers and sampler coefficients use these. Error <= 1 ulp (double)
   unless said otherwise; tests compare with libm. Arguments outside the domain give NaN as in libm. */
#ifndef LGV_ELEMENTARY_H
#define LGV_ELEMENTARY_H

double lgv_exp(double x);
double lgv_expm1(double x);
double lgv_log(double x);
double lgv_log1p(double x);
double lgv_pow(double x, double y);              /* x >= 0 */
void lgv_sincos(double x, double *s, double *c); /* |x| < 1e6 */
double lgv_sin(double x);
double lgv_cos(double x);
double lgv_tanh(double x);
double lgv_erf(double x);
double lgv_sqrt(double x); /* correctly rounded (the processor's) */

#endif
