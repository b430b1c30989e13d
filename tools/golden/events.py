"""The bytes TensorBoard's own protocol buffers and TFRecord frames give for a few events, as a C array
for tests/test_events.c. Needs: pip install tensorboard (2.21.0 was used)."""

import struct

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c


def record(event):
    data = event.SerializeToString()
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_crc32c(head)) + data + struct.pack("<I", masked_crc32c(data))


def event(step=0, **fields):
    return event_pb2.Event(wall_time=1700000000.25, step=step, **fields)


def value(**fields):
    return summary_pb2.Summary(value=[summary_pb2.Summary.Value(**fields)])


picture = bytes((7 * i) & 255 for i in range(300))
tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[b"a | b"])
tensor.tensor_shape.dim.add(size=1)
plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
everything = b"".join(
    record(e)
    for e in [
        event(file_version="brain.Event:2"),
        event(301, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)),
        event(1, summary=value(tag="loss", simple_value=0.125)),
        event(300000, summary=value(tag="lr", simple_value=float("nan"))),
        event(2, summary=value(tag="samples", image=summary_pb2.Summary.Image(
            height=5, width=200, colorspace=3, encoded_image_string=picture))),
        event(0, summary=value(tag="options", tensor=tensor,
                               metadata=summary_pb2.SummaryMetadata(plugin_data=plugin))),
    ]
)
for at in range(0, len(everything), 20):
    print("    " + " ".join("0x%02x," % b for b in everything[at:at + 20]))
