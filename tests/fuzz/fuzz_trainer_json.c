/* fuzz_trainer_json.c - trainer.json of a checkpoint behind its checksum, which whoever writes a
   hostile one can compute: the state of the run and the merging of options. */
#include "core/core.h"
#include "fuzz.h"
#include "io/json.h"
#include "train/options.h"
#include "train/trainer.h"

static lgv_status changed(void *arg, char *line, lgv_error *err)
{
    lgv_free(line);
    return LGV_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_json j = {0};
    char hex[65];
    lgv_error err = {0};
    if (lgv_json_parse((const char *)data, size, "trainer.json", &j, NULL)) return 0;
    MUST(!lgv_checkpoint_checksum(j.root, hex, NULL));
    lgv_train_state state;
    const json_t *stored = json_object_get(j.root, "state");
    MUST_SAY(lgv_train_state_parse(stored, size & 1, &state, &err), err);
    lgv_train_options empty = {0}, stated = {.train_batch_size = 4, .seed = 7};
    const json_t *options = json_object_get(j.root, "options");
    MUST_SAY(lgv_train_options_merge(options, &empty, changed, NULL, &err), err);
    MUST_SAY(lgv_train_options_merge(options, &stated, changed, NULL, &err), err);
    lgv_dataset_options pictures = {.resolution = 32};
    stored = json_object_get(json_object_get(j.root, "data"), "options");
    MUST_SAY(lgv_dataset_options_merge(stored, &pictures, changed, NULL, &err), err);
    lgv_json_free(&j);
    return 0;
}
