#!/usr/bin/env python3
"""Golden shards for tests/test_data_kinds.c, written by webdataset's own writer: tests/golden/webdataset/00000N.tar.

Run from anywhere: python tools/golden/webdataset_shard.py   (needs webdataset, Pillow and numpy)
"""
import os

import numpy as np
import webdataset as wds
from PIL import Image

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden", "webdataset")


def main():
    os.makedirs(OUT, exist_ok=True)
    y, x = np.mgrid[0:36, 0:40]
    with wds.ShardWriter(os.path.join(OUT, "%06d.tar"), maxcount=6, verbose=0) as sink:
        for i in range(12):
            picture = np.stack([x * 6, y * 7, np.full_like(x, 20 * i)], -1).astype(np.uint8)
            sample = {"__key__": "part/sample%03d" % i, "jpg": Image.fromarray(picture), "txt": "picture %d" % i}
            if i % 2:
                sample["cls"] = i % 3
            else:
                sample["json"] = {"label": i % 3, "width": 40}
            sink.write(sample)


if __name__ == "__main__":
    main()
