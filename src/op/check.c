/* check.c - shape checks that many operators share, so that their sentences read alike. */
#include "op.h"

static lgv_status want_rank(const lgv_value *v, const char *what, int lo, int hi, lgv_error *err)
{
    char text[96];
    if (v->rank >= lo && v->rank <= hi) return LGV_OK;
    lgv_shape_text(v, text);
    if (lo == hi)
        return lgv_fail(err, LGV_ERR_SHAPE, "%s %s has rank %d, wants rank %d", what, text, v->rank,
                        lo);
    return lgv_fail(err, LGV_ERR_SHAPE, "%s %s has rank %d, wants rank %d to %d", what, text,
                    v->rank, lo, hi);
}

lgv_status lgv_want_f32(const lgv_value *v, const char *what, int lo, int hi, lgv_error *err)
{
    if (!v) return lgv_fail(err, LGV_ERR_ARGUMENT, "%s is missing", what);
    if (v->dtype != LGV_F32) {
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "%s has element type %s, this operator wants F32 (cast it)", what,
                        lgv_dtype_name(v->dtype));
    }
    return want_rank(v, what, lo, hi, err);
}

lgv_status lgv_want_float(const lgv_value *v, const char *what, int lo, int hi, lgv_error *err)
{
    if (!v) return lgv_fail(err, LGV_ERR_ARGUMENT, "%s is missing", what);
    if (v->dtype != LGV_F32 && v->dtype != LGV_BF16) {
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "%s has element type %s, this operator wants F32 or BF16", what,
                        lgv_dtype_name(v->dtype));
    }
    return want_rank(v, what, lo, hi, err);
}

lgv_status lgv_want_same_shape(const lgv_value *a, const char *what_a, const lgv_value *b,
                               const char *what_b, lgv_error *err)
{
    char text_a[96], text_b[96];
    LGV_TRY(lgv_want_float(b, what_b, 1, LGV_MAX_RANK, err));
    if (lgv_same_shape(a, b)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE, "%s is %s and %s is %s; the shapes must be equal", what_a,
                    lgv_shape_text(a, text_a), what_b, lgv_shape_text(b, text_b));
}

lgv_status lgv_want_same(const lgv_value *a, const char *what_a, const lgv_value *b,
                         const char *what_b, lgv_error *err)
{
    LGV_TRY(lgv_want_same_shape(a, what_a, b, what_b, err));
    if (a->dtype == b->dtype) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "%s has element type %s and %s has %s; they must be equal (cast one)", what_a,
                    lgv_dtype_name(a->dtype), what_b, lgv_dtype_name(b->dtype));
}

lgv_status lgv_want_vector(const lgv_value *v, const char *what, int64_t n, const char *reason,
                           lgv_error *err)
{
    char text[96];
    LGV_TRY(lgv_want_f32(v, what, 1, LGV_MAX_RANK, err));
    if (v->rank == 1 && v->dim[0] == n) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE, "%s is %s, wants [%lld], %s", what, lgv_shape_text(v, text),
                    (long long)n, reason);
}

lgv_status lgv_want_matrix(const lgv_value *v, const char *what, int64_t n, int64_t c,
                           const char *reason, lgv_error *err)
{
    char text[96];
    LGV_TRY(lgv_want_f32(v, what, 1, LGV_MAX_RANK, err));
    if (v->rank == 2 && v->dim[0] == n && v->dim[1] == c) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE, "%s is %s, wants [%lld,%lld], %s", what,
                    lgv_shape_text(v, text), (long long)n, (long long)c, reason);
}

lgv_id lgv_example_input(lgv_graph *g, const char *name, int rank, int64_t d0, int64_t d1,
                         int64_t d2, int64_t d3)
{
    const int64_t dim[LGV_MAX_RANK] = {d0, d1, d2, d3};
    return lgv_input(g, name, LGV_F32, rank, dim);
}
