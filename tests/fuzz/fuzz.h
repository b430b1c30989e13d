/* fuzz.h - what the fuzz targets share. Each fuzz_NAME.c is one target: a parser is given bytes that
   anybody may have written and must end with a result or a sentence, never otherwise. Built with
   clang and -DLGV_FUZZ=ON they are libFuzzer programs; in every other build replay.c runs them over
   tests/fuzz/corpus/NAME, as a test. docs/security.md says how to run them. */
#ifndef LGV_FUZZ_H
#define LGV_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that must hold for every input. Unlike assert it stays in release builds. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) abort();                                                                 \
    } while (0)

/* A failure leaves a sentence. */
#define MUST_SAY(code, err) MUST(!(code) || ((err).status == (code) && (err).text[0]))

/* Reads every byte, for the address sanitizer. */
static inline void fuzz_touch(const uint8_t *p, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) sum ^= p[i];
    __asm__ volatile("" : : "r"(sum));
}

#endif
