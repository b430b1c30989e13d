/* loader.c - the loader's threads.
   A ring of slots; sample s uses slot s % ahead. A thread takes the next sample number under the
   lock, decodes without it, and marks the slot ready. The threads ask for less processor time than
   the network (nice), which matters on machines with few cores. */
#include "loader.h"

#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/file.h"
#include "dataset.h"

enum { MAX_THREADS = 64 };

typedef struct slot {
    uint8_t *pixels;
    int64_t used; /* the picture */
    bool ready;
    lgv_error error; /* status LGV_OK: pixels are good */
} slot;

struct lgv_loader {
    lgv_dataset *data;
    lgv_loader_options options;
    size_t bytes; /* of a sample */
    slot *slots;
    uint8_t *pixels;
    int64_t *order, *scratch;
    pthread_mutex_t lock;
    pthread_cond_t space, filled;
    int ready_parts;  /* of the three above that were initialised */
    int64_t epoch;    /* of order, -1 none */
    int64_t taken;    /* next sample a thread takes */
    int64_t consumed; /* next sample handed out */
    bool stop;
    pthread_t thread[MAX_THREADS];
    int threads;
};

/* Whether a thread may take the next sample now; makes its epoch's order when it is ours to make.
 */
static bool may_take(lgv_loader *l)
{
    if (l->taken >= l->consumed + l->options.ahead) return false;
    int64_t epoch = l->taken / l->options.per_epoch;
    if (epoch == l->epoch) return true;
    if (l->options.given_orders) return false;
    lgv_dataset_order(l->data, l->options.seed, epoch, l->order, l->scratch);
    l->epoch = epoch;
    return true;
}

static void *work(void *arg)
{
    lgv_loader *l = arg;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid),
                10); /* on Linux this is the thread's own; no harm when refused */
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        if (!may_take(l)) {
            pthread_cond_wait(&l->space, &l->lock);
            continue;
        }
        int64_t sample = l->taken++;
        int64_t picture = l->order[sample % l->options.per_epoch];
        slot *s = &l->slots[sample % l->options.ahead];
        pthread_mutex_unlock(&l->lock);
        s->error = (lgv_error){0};
        lgv_status status = lgv_dataset_read(l->data, 0, picture, l->options.seed, (uint64_t)sample,
                                             s->pixels, &s->used, &s->error);
        pthread_mutex_lock(&l->lock);
        s->error.status = status;
        s->ready = true;
        pthread_cond_broadcast(&l->filled);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static lgv_status start(lgv_loader *l, lgv_error *err)
{
    int64_t ahead = l->options.ahead;
    l->slots = lgv_zalloc((size_t)ahead, sizeof *l->slots);
    l->pixels = lgv_alloc((size_t)ahead, l->bytes);
    l->order = lgv_alloc((size_t)lgv_dataset_epoch_length(l->data), sizeof *l->order);
    l->scratch = lgv_alloc(lgv_dataset_order_scratch(l->data), sizeof *l->scratch);
    if (!l->slots || !l->pixels || !l->order || !l->scratch)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld pictures ahead",
                        (long long)ahead);
    for (int64_t i = 0; i < ahead; i++) l->slots[i].pixels = l->pixels + (size_t)i * l->bytes;
    if (pthread_mutex_init(&l->lock, NULL) == 0) l->ready_parts = 1;
    if (l->ready_parts == 1 && pthread_cond_init(&l->space, NULL) == 0) l->ready_parts = 2;
    if (l->ready_parts == 2 && pthread_cond_init(&l->filled, NULL) == 0) l->ready_parts = 3;
    if (l->ready_parts != 3)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the data loader");
    for (; l->threads < l->options.threads; l->threads++) {
        if (pthread_create(&l->thread[l->threads], NULL, work, l)) break;
    }
    if (!l->threads)
        return lgv_fail(err, LGV_ERR_MEMORY, "cannot start a thread for the data loader");
    return LGV_OK;
}

lgv_status lgv_loader_new(lgv_dataset *data, const lgv_loader_options *options, lgv_loader **out,
                          lgv_error *err)
{
    lgv_loader *l = lgv_zalloc(1, sizeof *l);
    if (!l) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the data loader");
    size_t side = (size_t)lgv_dataset_resolution(data);
    l->data = data;
    l->options = *options;
    l->bytes = side * side * (size_t)lgv_dataset_channels(data);
    l->epoch = -1;
    l->taken = l->consumed = options->first;
    if (!l->options.per_epoch) l->options.per_epoch = lgv_dataset_epoch_length(data);
    if (l->options.ahead < 1) l->options.ahead = 1;
    if (l->options.threads < 1) l->options.threads = 1;
    if (l->options.threads > MAX_THREADS) l->options.threads = MAX_THREADS;
    lgv_status s = start(l, err);
    if (s) {
        lgv_loader_free(l);
        return s;
    }
    *out = l;
    return LGV_OK;
}

void lgv_loader_free(lgv_loader *l)
{
    if (!l) return;
    if (l->threads) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_broadcast(&l->space);
        pthread_mutex_unlock(&l->lock);
        for (int i = 0; i < l->threads; i++) pthread_join(l->thread[i], NULL);
    }
    if (l->ready_parts >= 1) pthread_mutex_destroy(&l->lock);
    if (l->ready_parts >= 2) pthread_cond_destroy(&l->space);
    if (l->ready_parts >= 3) pthread_cond_destroy(&l->filled);
    lgv_free(l->order);
    lgv_free(l->scratch);
    lgv_free(l->pixels);
    lgv_free(l->slots);
    lgv_free(l);
}

void lgv_loader_epoch(lgv_loader *l, int64_t epoch, const int64_t *order)
{
    pthread_mutex_lock(&l->lock);
    memcpy(l->order, order, (size_t)lgv_dataset_epoch_length(l->data) * sizeof *order);
    l->epoch = epoch;
    pthread_cond_broadcast(&l->space);
    pthread_mutex_unlock(&l->lock);
}

lgv_status lgv_loader_next(lgv_loader *l, int64_t n, uint8_t *pixels, int32_t *label,
                           double *waited, lgv_error *err)
{
    lgv_status status = LGV_OK;
    pthread_mutex_lock(&l->lock);
    for (int64_t i = 0; i < n && !status; i++) {
        slot *s = &l->slots[l->consumed % l->options.ahead];
        if (!s->ready) {
            double begin = lgv_now();
            while (!s->ready) pthread_cond_wait(&l->filled, &l->lock);
            if (waited) *waited += lgv_now() - begin;
        }
        if (s->error.status) {
            status = lgv_fail(err, s->error.status, "%s", s->error.text);
            break; /* the slot stays: asking again gives the same answer */
        }
        memcpy(pixels + (size_t)i * l->bytes, s->pixels, l->bytes);
        if (label) label[i] = lgv_dataset_label(l->data, 0, s->used);
        s->ready = false;
        l->consumed++;
        pthread_cond_broadcast(&l->space);
    }
    pthread_mutex_unlock(&l->lock);
    return status;
}
