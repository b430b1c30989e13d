/* safetensors.h - reading and writing tensors in safetensors files, and the weights of a model
   folder. The format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape,
   data_offsets}}, then the data without holes or overlaps
   (https://github.com/huggingface/safetensors). A file is hostile until validated: everything these
   readers hand out lies inside the file and fits its shape. */
#ifndef LANGEVIN_SAFETENSORS_H
#define LANGEVIN_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "dtype.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    LGV_TENSOR_RANK = 8,     /* the largest rank read or written */
    LGV_TENSOR_NAME = 1024,  /* bytes of a name, */
    LGV_TENSORS = 128 * 1024 /* and tensors of a file: more are refused when reading */
};

/* A tensor in a file, in PyTorch's order (last dimension contiguous), little-endian. Everything it
   points to belongs to the open file or set. */
typedef struct lgv_tensor_info {
    const char *name;
    lgv_dtype dtype;
    int rank;
    int64_t dim[LGV_TENSOR_RANK]; /* each >= 0; rank 0 is one element */
    int64_t count;                /* elements: the product of dim */
    const void *data; /* NOT necessarily aligned to the element: memcpy or lgv_tensor_to_f32 */
    size_t bytes;     /* count * lgv_dtype_size(dtype) */
} lgv_tensor_info;

/* Writes count floats to dst. F16 and BF16 are exact; F64 is rounded to nearest.
   LGV_ERR_UNSUPPORTED for integer types. */
LGV_API lgv_status lgv_tensor_to_f32(const lgv_tensor_info *t, float *dst, lgv_error *err);

/* Writes count elements of another type: from a floating-point type to F32, F16 or BF16, to the nearest. Numbers beyond
   F16 are LGV_ERR_NUMERIC. Other types only to themselves. */
LGV_API lgv_status lgv_tensor_convert(const lgv_tensor_info *t, lgv_dtype dtype, void *dst,
                                      lgv_error *err);

/* ---- one file ---- */
typedef struct lgv_safetensors lgv_safetensors;

/* Maps and validates the file: LGV_ERR_FORMAT names the tensor and the fault, LGV_ERR_UNSUPPORTED
   an element type this build does not know (U16, F8_E4M3 ...). Metadata is optional. */
LGV_API lgv_status lgv_safetensors_open(const char *path, lgv_safetensors **out, lgv_error *err);
/* The same for a file that already lies in memory, which is borrowed until the close. `name` is what
   messages call it. */
LGV_API lgv_status lgv_safetensors_open_memory(const void *data, size_t size, const char *name,
                                               lgv_safetensors **out, lgv_error *err);
LGV_API void lgv_safetensors_close(lgv_safetensors *f);
LGV_API size_t lgv_safetensors_count(const lgv_safetensors *f);
/* Tensor i < count, in the order of the data; never NULL. */
LGV_API const lgv_tensor_info *lgv_safetensors_at(const lgv_safetensors *f, size_t i);
/* NULL when there is none of that name. */
LGV_API const lgv_tensor_info *lgv_safetensors_find(const lgv_safetensors *f, const char *name);
/* The text of a "__metadata__" key, NULL when absent. */
LGV_API const char *lgv_safetensors_metadata(const lgv_safetensors *f, const char *key);
/* Entry i of the metadata (of the first 4,096). False: there is none. */
LGV_API int lgv_safetensors_note(const lgv_safetensors *f, size_t i, const char **name,
                                 const char **text);

/* ---- the weights of a model folder: one file or shards ---- */
typedef struct lgv_weights lgv_weights;

/* Opens folder/stem.safetensors, else the shards listed by folder/stem.safetensors.index.json (the
   set is then exactly the names in its weight_map), else stem.bin or stem.bin.index.json, which are files of
   torch.save (torch_file.h). stem: "diffusion_pytorch_model", or "model.fp16" ... */
LGV_API lgv_status lgv_weights_open(const char *folder, const char *stem, lgv_weights **out,
                                    lgv_error *err);
/* The same view of a single file, of safetensors or of torch.save. */
LGV_API lgv_status lgv_weights_open_file(const char *path, lgv_weights **out, lgv_error *err);
LGV_API void lgv_weights_close(lgv_weights *w);
LGV_API size_t lgv_weights_count(const lgv_weights *w);
/* Tensor i < count, sorted by name (bytes); never NULL. */
LGV_API const lgv_tensor_info *lgv_weights_at(const lgv_weights *w, size_t i);
/* NULL when there is none of that name. */
LGV_API const lgv_tensor_info *lgv_weights_find(const lgv_weights *w, const char *name);
/* How many bytes of tensor i's name lead to the dictionary it stands in (torch_file.h); 0 in safetensors. */
LGV_API size_t lgv_weights_stem(const lgv_weights *w, size_t i);
/* The metadata text of the first safetensors file that has the key, else NULL. */
LGV_API const char *lgv_weights_metadata(const lgv_weights *w, const char *key);
/* What a single file holds beside tensors: metadata, or the notes of torch_file.h. False: i is beyond the last. */
LGV_API int lgv_weights_note(const lgv_weights *w, size_t i, const char **name, const char **text);

/* ---- writing ---- */
typedef struct lgv_safetensors_writer lgv_safetensors_writer;

/* Produces a tensor's bytes when the file is written: exactly `bytes` of them into dst. */
typedef lgv_status (*lgv_tensor_source)(void *arg, void *dst, size_t bytes, lgv_error *err);

LGV_API lgv_status lgv_safetensors_writer_new(lgv_safetensors_writer **out, lgv_error *err);
LGV_API void lgv_safetensors_writer_free(lgv_safetensors_writer *w);
/* Adds a tensor; names are copied and unique, data is borrowed until the last write. Tensors stand
   in the file in the order added. */
LGV_API lgv_status lgv_safetensors_add(lgv_safetensors_writer *w, const char *name, lgv_dtype dtype,
                                       int rank, const int64_t *dim, const void *data,
                                       lgv_error *err);
/* The same with the data asked for while writing (one tensor at a time is held in memory). */
LGV_API lgv_status lgv_safetensors_add_source(lgv_safetensors_writer *w, const char *name,
                                              lgv_dtype dtype, int rank, const int64_t *dim,
                                              lgv_tensor_source source, void *arg, lgv_error *err);
/* Sets a metadata text (replacing an earlier one). "format": "pt" is always there: loaders refuse
   files without. */
LGV_API lgv_status lgv_safetensors_set_metadata(lgv_safetensors_writer *w, const char *key,
                                                const char *value, lgv_error *err);
/* Writes the file atomically: it appears under its name complete and synced, or not at all. The
   header is padded so that the data begins at a multiple of 8. May be called again. */
LGV_API lgv_status lgv_safetensors_write(lgv_safetensors_writer *w, const char *path,
                                         lgv_error *err);

#ifdef __cplusplus
}
#endif
#endif
