/* event_bytes.c - TFRecord frames and the few protocol-buffer messages that TensorBoard reads.
   A message inside another follows its length, which takes 1 to 5 bytes: it is built behind five and
   moved back to what is needed. Fields stand in the order of their numbers, so the bytes are those
   that protobuf itself writes. */
#include "event_bytes.h"

#include <string.h>

/* Numbers of the fields, from the .proto files. */
enum {
    EVENT_TIME = 1,
    EVENT_STEP = 2,
    EVENT_VERSION = 3,
    EVENT_SUMMARY = 5,
    EVENT_SESSION = 7,
    SESSION_STATUS = 1,
    SESSION_START = 1,
    SUMMARY_VALUE = 1,
    VALUE_TAG = 1,
    VALUE_SIMPLE = 2,
    VALUE_IMAGE = 4,
    VALUE_TENSOR = 8,
    VALUE_METADATA = 9,
    IMAGE_HEIGHT = 1,
    IMAGE_WIDTH = 2,
    IMAGE_COLOURS = 3,
    IMAGE_DATA = 4,
    TENSOR_TYPE = 1,
    TENSOR_SHAPE = 2,
    TENSOR_STRING = 8,
    TYPE_STRING = 7,
    SHAPE_DIM = 2,
    DIM_SIZE = 1,
    METADATA_PLUGIN = 1,
    PLUGIN_NAME = 1
};
enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

/* ---- bytes ---- */

static void put_little(lgv_bytes *b, uint64_t v, size_t size)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)(v >> 8 * i);
    lgv_bytes_put(b, bytes, size);
}

static void put_varint(lgv_bytes *b, uint64_t v)
{
    for (; v >= 128; v >>= 7) put_little(b, v | 128, 1);
    put_little(b, v, 1);
}

static void put_key(lgv_bytes *b, int field, int wire)
{
    put_varint(b, (uint64_t)(field << 3 | wire));
}

static void put_int(lgv_bytes *b, int field, int64_t v)
{
    put_key(b, field, VARINT);
    put_varint(b, (uint64_t)v);
}

static void put_bytes(lgv_bytes *b, int field, const void *data, size_t size)
{
    put_key(b, field, BYTES);
    put_varint(b, size);
    lgv_bytes_put(b, data, size);
}

static void put_text(lgv_bytes *b, int field, const char *text)
{
    put_bytes(b, field, text, strlen(text));
}

/* ---- messages inside messages ---- */

enum { LENGTH = 5 }; /* bytes of a length: up to 2^35 */

static size_t begin(lgv_bytes *b, int field)
{
    static const uint8_t room[LENGTH] = {0};
    put_key(b, field, BYTES);
    lgv_bytes_put(b, room, LENGTH);
    return b->size;
}

static void end(lgv_bytes *b, size_t at)
{
    if (b->failed) return;
    size_t size = b->size - at, n = 1;
    for (size_t rest = size >> 7; rest; rest >>= 7) n++;
    uint8_t *head = b->data + at - LENGTH;
    for (size_t i = 0; i < n; i++)
        head[i] = (uint8_t)((size >> 7 * i & 127) | (i + 1 < n ? 128 : 0));
    memmove(head + n, b->data + at, size);
    b->size -= LENGTH - n;
}

/* ---- frames ---- */

uint32_t lgv_crc32c(const void *data, size_t size)
{
    static const uint32_t half[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
                                      0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
                                      0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                      0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    const uint8_t *p = data;
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ half[crc & 15];
        crc = crc >> 4 ^ half[crc & 15];
    }
    return ~crc;
}

/* A checksum of data that holds checksums is no good: TFRecord turns and shifts it. */
static uint32_t masked(const void *data, size_t size)
{
    uint32_t crc = lgv_crc32c(data, size);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* length (8 bytes), its checksum (4), the event, its checksum (4). */
static size_t begin_event(lgv_bytes *b, double time, int64_t step)
{
    static const uint8_t room[12] = {0};
    uint64_t bits;
    lgv_bytes_put(b, room, sizeof room);
    size_t at = b->size;
    memcpy(&bits, &time, sizeof bits);
    put_key(b, EVENT_TIME, FIXED64);
    put_little(b, bits, 8);
    if (step) put_int(b, EVENT_STEP, step);
    return at;
}

static void end_event(lgv_bytes *b, size_t at)
{
    if (b->failed) return;
    uint64_t size = b->size - at;
    uint8_t *head = b->data + at - 12;
    for (int i = 0; i < 8; i++) head[i] = (uint8_t)(size >> 8 * i);
    uint32_t crc = masked(head, 8);
    for (int i = 0; i < 4; i++) head[8 + i] = (uint8_t)(crc >> 8 * i);
    put_little(b, masked(b->data + at, size), 4);
}

/* ---- events ---- */

void lgv_event_version(lgv_bytes *b, double time)
{
    size_t event = begin_event(b, time, 0);
    put_text(b, EVENT_VERSION, "brain.Event:2");
    end_event(b, event);
}

void lgv_event_start(lgv_bytes *b, double time, int64_t step)
{
    size_t event = begin_event(b, time, step), session = begin(b, EVENT_SESSION);
    put_int(b, SESSION_STATUS, SESSION_START);
    end(b, session);
    end_event(b, event);
}

void lgv_event_scalar(lgv_bytes *b, double time, int64_t step, const char *tag, double value)
{
    float v = (float)value;
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    size_t event = begin_event(b, time, step);
    size_t summary = begin(b, EVENT_SUMMARY), item = begin(b, SUMMARY_VALUE);
    put_text(b, VALUE_TAG, tag);
    put_key(b, VALUE_SIMPLE, FIXED32);
    put_little(b, bits, 4);
    end(b, item);
    end(b, summary);
    end_event(b, event);
}

void lgv_event_image(lgv_bytes *b, double time, int64_t step, const char *tag, int width,
                     int height, int channels, const void *data, size_t size)
{
    size_t event = begin_event(b, time, step);
    size_t summary = begin(b, EVENT_SUMMARY), item = begin(b, SUMMARY_VALUE);
    put_text(b, VALUE_TAG, tag);
    size_t image = begin(b, VALUE_IMAGE);
    put_int(b, IMAGE_HEIGHT, height);
    put_int(b, IMAGE_WIDTH, width);
    put_int(b, IMAGE_COLOURS, channels);
    put_bytes(b, IMAGE_DATA, data, size);
    end(b, image);
    end(b, item);
    end(b, summary);
    end_event(b, event);
}

void lgv_event_text(lgv_bytes *b, double time, int64_t step, const char *tag, const char *text)
{
    size_t event = begin_event(b, time, step);
    size_t summary = begin(b, EVENT_SUMMARY), item = begin(b, SUMMARY_VALUE);
    put_text(b, VALUE_TAG, tag);
    size_t tensor = begin(b, VALUE_TENSOR);
    put_int(b, TENSOR_TYPE, TYPE_STRING);
    size_t shape = begin(b, TENSOR_SHAPE), dim = begin(b, SHAPE_DIM);
    put_int(b, DIM_SIZE, 1);
    end(b, dim);
    end(b, shape);
    put_text(b, TENSOR_STRING, text);
    end(b, tensor);
    size_t metadata = begin(b, VALUE_METADATA), plugin = begin(b, METADATA_PLUGIN);
    put_text(b, PLUGIN_NAME, "text");
    end(b, plugin);
    end(b, metadata);
    end(b, item);
    end(b, summary);
    end_event(b, event);
}
