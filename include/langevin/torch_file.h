/* torch_file.h - reading and writing the files of torch.save (.pt, .pth, .th, .ckpt, .bin). Both forms are read: the zip
   archive (torch 1.6 and later) and the older stream of pickles. They are read as data: the pickle in them names
   classes and functions, and here these stay names; nothing is imported or executed. A file is hostile until
   validated: every tensor handed out lies inside the file (or in a copy made of it) and fits its shape. */
#ifndef LANGEVIN_TORCH_FILE_H
#define LANGEVIN_TORCH_FILE_H

#include "safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lgv_torch_file lgv_torch_file;

/* Maps and validates the file. A tensor's name is the path to it: keys of nested dictionaries, indices of lists and
   attributes of objects, joined by dots ("state_dict.conv_in.weight"); a file that is one tensor calls it "tensor".
   Tensors whose elements do not follow each other in the file are copied. Tensors of element types that lgv_dtype
   does not have are listed among the notes. Where a tensor was (cuda:0) does not matter. */
LGV_API lgv_status lgv_torch_file_open(const char *path, lgv_torch_file **out, lgv_error *err);
/* The same for a file that already lies in memory, which is borrowed until the close. */
LGV_API lgv_status lgv_torch_file_open_memory(const void *data, size_t size, const char *name,
                                              lgv_torch_file **out, lgv_error *err);
LGV_API void lgv_torch_file_close(lgv_torch_file *f); /* NULL is legal */
LGV_API size_t lgv_torch_file_count(const lgv_torch_file *f);
/* Tensor i < count, in the order of the dictionaries; never NULL. *stem (may be NULL): how many bytes of the name lead
   to the dictionary that holds the tensor, the dot included. */
LGV_API const lgv_tensor_info *lgv_torch_file_at(const lgv_torch_file *f, size_t i, size_t *stem);
/* NULL when there is none of that name. */
LGV_API const lgv_tensor_info *lgv_torch_file_find(const lgv_torch_file *f, const char *name);
/* What is not a tensor: texts, numbers, names of classes, by path; as one would write them in Python. *name and *text
   belong to f. False: i is beyond the last. */
LGV_API int lgv_torch_file_note(const lgv_torch_file *f, size_t i, const char **name,
                                const char **text);
/* Whether a file begins as one of torch.save does. */
LGV_API int lgv_torch_file_is(const char *path);

/* Writes the writer's tensors as one dictionary, in the order added, so that torch.load(path, weights_only=True) gives
   them back; metadata is left out. Atomic, as lgv_safetensors_write. */
LGV_API lgv_status lgv_torch_file_write(lgv_safetensors_writer *w, const char *path,
                                        lgv_error *err);

#ifdef __cplusplus
}
#endif
#endif
