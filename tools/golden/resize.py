#!/usr/bin/env python3
"""Golden pictures for tests/test_image.c: what PIL decodes, converts and resizes.

Writes tests/golden/images/*.{png,jpg,webp,gif,bmp} (most of them written by PIL) and images.json: for each the FNV-1a-64 of the
pixels as PIL decodes them, the same for resized pseudo-random pictures, torchvision's size rules, the versions used.
Run from anywhere: python tools/golden/resize.py   (needs Pillow >= 13 and numpy)
"""
import json
import os
import struct
import zlib

import numpy as np
import PIL
from PIL import Image, ImageOps

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden", "images")


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return "%016x" % h


def pattern(height, width, channels, seed):
    """Value i of the resize inputs: the top byte of a 64-bit LCG, the same in the C test."""
    x = seed
    out = bytearray()
    for _ in range(height * width * channels):
        x = (x * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        out.append(x >> 56)
    a = np.frombuffer(bytes(out), np.uint8)
    return a.reshape((height, width, channels) if channels > 1 else (height, width))


def resize_cases():
    sizes = [  # in (w, h) -> out (w, h)
        ((28, 28), (32, 32)), ((28, 28), (14, 14)), ((28, 28), (17, 9)), ((37, 53), (64, 64)), ((53, 37), (16, 16)),
        ((101, 67), (33, 64)), ((5, 7), (1, 1)), ((1, 1), (5, 3)), ((64, 64), (64, 21)), ((64, 64), (21, 64)),
        ((40, 40), (40, 40)), ((257, 3), (7, 31)), ((199, 211), (128, 128)), ((300, 2), (3, 2)), ((9, 300), (200, 3)),
        ((2, 400), (3, 5)), ((2, 400), (1, 5)), ((300, 9), (3, 200)), ((37, 34), (36, 30)), ((60, 27), (15, 5)),
        ((32, 51), (13, 13)),  # the height loses exactly twice as much
    ]
    cases = []
    for n, ((w, h), (ow, oh)) in enumerate(sizes):
        for channels in (1, 3):
            image = Image.fromarray(pattern(h, w, channels, 1000 + n))
            out = image.resize((ow, oh), Image.Resampling.BILINEAR)
            cases.append({"width": w, "height": h, "channels": channels, "seed": 1000 + n, "out_width": ow,
                          "out_height": oh, "fnv": fnv(out.tobytes())})
    return cases


def torchvision_rules():
    """Resize(int) and CenterCrop sizes, as torchvision computes them (pure Python arithmetic)."""
    short, crop = [], []
    for w, h, size in [(640, 480, 64), (480, 640, 64), (101, 67, 32), (67, 101, 33), (28, 28, 32), (1000, 3, 64),
                       (333, 222, 100), (16384, 7, 5)]:
        s, l = (w, h) if w <= h else (h, w)
        ns, nl = size, int(size * l / s)
        short.append([w, h, size] + ([ns, nl] if w <= h else [nl, ns]))
    for side, c in [(10, 4), (11, 4), (13, 4), (9, 4), (4, 4), (100, 33), (101, 33), (7, 2), (64, 63)]:
        crop.append([side, c, int(round((side - c) / 2.0))])
    return short, crop


def natural(height, width):
    """A smooth colourful picture, so that JPEG behaves as on photographs."""
    y, x = np.mgrid[0:height, 0:width]
    r = 127 + 120 * np.sin(x / 5.0 + y / 9.0)
    g = 255 * x / max(1, width - 1)
    b = 127 + 127 * np.cos(y / 4.0)
    return np.stack([r, g, b], -1).clip(0, 255).astype(np.uint8)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width, height, depth, colour, rows, extra=b""):
    """A PNG that PIL does not write (16-bit colour, low depths): filter 0 rows given as bytes."""
    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + r for r in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def adam7_png(width, height, channels, pixels):
    """8-bit interlaced: pixels[height][width][channels]."""
    rows = []
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        sub = pixels[y0::dy, x0::dx]
        if sub.shape[0] and sub.shape[1]:
            rows += [b"\0" + r.tobytes() for r in sub]
    ihdr = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"".join(rows), 9)) + chunk(b"IEND", b"")


def write(name, data):
    with open(os.path.join(OUT, name), "wb") as f:
        f.write(data)


def save(image, name, **options):
    image.save(os.path.join(OUT, name), **options)


def write_pictures():
    """Each file with what our decoder must give: channels, bits, pixels (16-bit little-endian) as FNV."""
    expect = {}

    def note(name, channels, bits, array):
        a = np.ascontiguousarray(array)
        a = a.astype("<u2") if bits == 16 else a.astype(np.uint8)
        expect[name] = {"width": int(a.shape[1]), "height": int(a.shape[0]), "channels": channels, "bits": bits,
                        "fnv": fnv(a.tobytes())}

    rgb = natural(19, 27)
    image = Image.fromarray(rgb)
    grey = image.convert("L")
    alpha = np.arange(19 * 27, dtype=np.uint32).reshape(19, 27) * 7 % 256
    rgba = np.concatenate([rgb, alpha[..., None].astype(np.uint8)], -1)

    save(grey, "grey8.png")
    note("grey8.png", 1, 8, np.asarray(grey))
    save(image, "rgb8.png")
    note("rgb8.png", 3, 8, rgb)
    save(Image.fromarray(rgba, "RGBA"), "rgba8.png")
    note("rgba8.png", 4, 8, rgba)
    la = Image.merge("LA", (grey, Image.fromarray(alpha.astype(np.uint8))))
    save(la, "la8.png")
    note("la8.png", 2, 8, np.asarray(la))
    palette = image.quantize(13)
    save(palette, "palette4.png")
    note("palette4.png", 3, 8, np.asarray(palette.convert("RGB")))
    palette = image.quantize(200)
    save(palette, "palette8t.png", transparency=bytes(range(0, 200, 1)))
    note("palette8t.png", 4, 8, np.asarray(Image.open(os.path.join(OUT, "palette8t.png")).convert("RGBA")))
    bits = image.convert("1")
    save(bits, "grey1.png")
    note("grey1.png", 1, 8, np.asarray(bits.convert("L")))
    image16 = Image.fromarray((np.asarray(grey).astype(np.uint16) * 251 + 77))
    save(image16, "grey16.png")
    note("grey16.png", 1, 16, np.asarray(image16))
    save(image, "gamma.png")  # a gAMA chunk must change nothing
    data = open(os.path.join(OUT, "gamma.png"), "rb").read()
    write("gamma.png", data[:33] + chunk(b"gAMA", struct.pack(">I", 100000)) + data[33:])
    note("gamma.png", 3, 8, np.asarray(Image.open(os.path.join(OUT, "gamma.png")).convert("RGB")))

    rgb16 = (rgb.astype(np.uint32) * 257 % 65521).astype(np.uint16)
    write("rgb16.png", raw_png(27, 19, 16, 2, [r.astype(">u2").tobytes() for r in rgb16]))
    note("rgb16.png", 3, 16, rgb16)
    rgba16 = np.concatenate([rgb16, rgb16[..., :1] ^ 0x5555], -1)
    write("rgba16.png", raw_png(27, 19, 16, 6, [r.astype(">u2").tobytes() for r in rgba16]))
    note("rgba16.png", 4, 16, rgba16)
    for depth in (2, 4):
        v = (np.asarray(grey).astype(int) >> (8 - depth)).astype(np.uint8)
        per = 8 // depth
        padded = np.pad(v, ((0, 0), (0, -27 % per)))
        packed = sum(padded[:, i::per].astype(int) << (8 - depth * (i + 1)) for i in range(per)).astype(np.uint8)
        name = "grey%d.png" % depth
        write(name, raw_png(27, 19, depth, 0, [r.tobytes() for r in packed]))
        note(name, 1, 8, np.asarray(Image.open(os.path.join(OUT, name)).convert("L")))
    key = np.asarray(grey)[3, 5]
    write("grey8t.png", raw_png(27, 19, 8, 0, [r.tobytes() for r in np.asarray(grey)],
                                chunk(b"tRNS", struct.pack(">H", int(key)))))
    note("grey8t.png", 2, 8, np.stack([np.asarray(grey), np.where(np.asarray(grey) == key, 0, 255)], -1))
    write("rgb8i.png", adam7_png(27, 19, 3, rgb))
    note("rgb8i.png", 3, 8, np.asarray(Image.open(os.path.join(OUT, "rgb8i.png")).convert("RGB")))

    save(grey, "grey.jpg", quality=85)
    save(image, "rgb420.jpg", quality=85, subsampling=2)
    save(image, "rgb422.jpg", quality=85, subsampling=1)
    save(image, "rgb444.jpg", quality=95, subsampling=0)
    save(image, "progressive.jpg", quality=80, progressive=True)
    save(image.convert("CMYK"), "cmyk.jpg", quality=90)
    for name in ("grey.jpg", "rgb420.jpg", "rgb422.jpg", "rgb444.jpg", "progressive.jpg", "cmyk.jpg"):
        opened = Image.open(os.path.join(OUT, name))
        grey_file = opened.mode == "L"
        note(name, 1 if grey_file else 3, 8, np.asarray(opened if grey_file else opened.convert("RGB")))
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = "exif%d.jpg" % orientation
        save(image, name, quality=75, exif=exif)
        upright = ImageOps.exif_transpose(Image.open(os.path.join(OUT, name)))
        note(name, 3, 8, np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(image, "exif6.png", exif=exif)
    note("exif6.png", 3, 8, np.asarray(ImageOps.exif_transpose(Image.open(os.path.join(OUT, "exif6.png")))))
    more_pictures(note, image, grey, rgba)
    converted = {"rgb8.png": fnv(np.asarray(image.convert("L")).tobytes())}
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.paste(Image.fromarray(rgba, "RGBA"), (0, 0), Image.fromarray(alpha.astype(np.uint8)))
    return expect, converted, fnv(np.asarray(white.convert("RGB")).tobytes())


def ycck(data):
    """The same CMYK JPEG, its Adobe marker saying that the first three components are YCC."""
    at = data.index(b"Adobe")
    return data[:at + 11] + b"\2" + data[at + 12:]


def raw_bmp(width, height, bits, compression, body, masks=b"", palette=b"", header=40):
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(body), 2835, 2835, len(palette) // 4, 0)
    info += masks
    info += b"\0" * (header - len(info))
    at = 14 + len(info) + len(palette)
    return struct.pack("<2sIHHI", b"BM", at + len(body), 0, 0, at) + info + palette + body


def more_pictures(note, image, grey, rgba):
    """YCCK, the PNGs with transparency that are rare, WebP, GIF and BMP: files and what PIL makes of them."""
    def opened(name, mode="RGB"):
        return Image.open(os.path.join(OUT, name)).convert(mode)

    write("ycck.jpg", ycck(open(os.path.join(OUT, "cmyk.jpg"), "rb").read()))
    note("ycck.jpg", 3, 8, np.asarray(opened("ycck.jpg")))
    rgb = np.asarray(image)
    write("rgb8t.png", raw_png(27, 19, 8, 2, [r.tobytes() for r in rgb],
                               chunk(b"tRNS", struct.pack(">HHH", *[int(v) for v in rgb[4, 6]]))))
    note("rgb8t.png", 4, 8, np.asarray(opened("rgb8t.png", "RGBA")))
    la16 = np.stack([np.asarray(grey).astype(np.uint16) * 257 + 3, np.arange(27 * 19, dtype=np.uint16).reshape(19, 27) * 127], -1)
    write("la16.png", raw_png(27, 19, 16, 4, [r.astype(">u2").tobytes() for r in la16]))
    note("la16.png", 2, 16, la16)
    few = image.quantize(4)
    save(few, "palette2t.png", bits=2, transparency=bytes([255, 0, 128]))
    note("palette2t.png", 4, 8, np.asarray(opened("palette2t.png", "RGBA")))

    alpha = Image.fromarray(rgba, "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(image, "lossless.webp", lossless=True, quality=60)
    save(image, "lossy.webp", quality=80)
    save(alpha, "alpha.webp", lossless=True, exact=True)
    save(alpha, "lossya.webp", quality=70, alpha_quality=60)
    save(image, "exif6.webp", lossless=True, exif=exif)
    save(alpha, "animated.webp", save_all=True, append_images=[alpha.transpose(Image.Transpose.ROTATE_180)], lossless=True)
    for name in ("lossless.webp", "lossy.webp", "alpha.webp", "lossya.webp", "exif6.webp", "animated.webp"):
        upright = ImageOps.exif_transpose(Image.open(os.path.join(OUT, name)))
        note(name, 4 if upright.mode == "RGBA" else 3, 8, np.asarray(upright))

    colours = image.quantize(32)
    save(colours, "plain.gif")
    save(colours, "interlaced.gif", interlace=1)
    save(colours, "transparent.gif", transparency=5)
    save(colours, "animated.gif", save_all=True, append_images=[colours.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], duration=50)
    small = bytearray(open(os.path.join(OUT, "plain.gif"), "rb").read())
    small[6:10] = struct.pack("<HH", 33, 21)  # the screen is larger than the frame, which begins at (3, 2)
    at = small.index(b"\x2c\0\0\0\0\x1b\0\x13\0")
    small[at + 1:at + 5] = struct.pack("<HH", 3, 2)
    write("offset.gif", bytes(small))
    for name in ("plain.gif", "interlaced.gif", "transparent.gif", "animated.gif", "offset.gif"):
        mode = "RGBA" if "transparency" in Image.open(os.path.join(OUT, name)).info else "RGB"
        note(name, len(mode), 8, np.asarray(opened(name, mode)))

    save(image, "rgb24.bmp")
    save(grey, "grey8.bmp")
    save(image.convert("1"), "bits1.bmp")
    save(colours, "palette8.bmp")
    save(alpha, "alpha32.bmp")
    five = rgb.astype(np.uint16) >> 3
    pad = np.zeros((19, 1), np.uint16)
    v555 = np.concatenate([five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2], pad], 1)
    write("rgb555.bmp", raw_bmp(27, -19, 16, 0, v555.astype("<u2").tobytes()))  # top-down
    v565 = np.concatenate([five[..., 0] << 11 | rgb[..., 1].astype(np.uint16) >> 2 << 5 | five[..., 2], pad], 1)[::-1]
    write("rgb565.bmp", raw_bmp(27, 19, 16, 3, v565.astype("<u2").tobytes(), struct.pack("<III", 0xF800, 0x7E0, 0x1F)))
    table = b"".join(bytes([b, g, r, 0]) for r, g, b in np.asarray(colours.getpalette(), np.uint8).reshape(-1, 3)[:16])
    write("rle8.bmp", raw_bmp(9, 3, 8, 1, b"\5\1\4\2\0\0" b"\0\5\1\2\3\4\5\0\0\0" b"\0\2\2\0\7\2\0\0\0\1", b"", table))
    write("rle4.bmp", raw_bmp(9, 3, 4, 2, b"\5\x12\4\x34\0\0" b"\0\5\x12\x34\x50\0\0\0" b"\7\x67\0\0\0\1", b"", table))
    packed = np.pad(np.asarray(grey) >> 4, ((0, 0), (0, 5)))
    four = (packed[:, ::2] << 4 | packed[:, 1::2]).astype(np.uint8)[::-1]
    write("palette4.bmp", raw_bmp(27, 19, 4, 0, four.tobytes(), b"", table))
    for name in ("rgb24.bmp", "grey8.bmp", "bits1.bmp", "palette8.bmp", "alpha32.bmp", "rgb555.bmp", "rgb565.bmp",
                 "rle8.bmp", "rle4.bmp", "palette4.bmp"):
        mode = Image.open(os.path.join(OUT, name)).mode
        mode = {"1": "L", "P": "RGB"}.get(mode, mode)
        note(name, len(mode), 8, np.asarray(opened(name, mode)))


def main():
    os.makedirs(OUT, exist_ok=True)
    expect, to_grey, over_white = write_pictures()
    short, crop = torchvision_rules()
    golden = {"versions": {"pillow": PIL.__version__, "numpy": np.__version__}, "pictures": expect, "resize": resize_cases(),
              "rgb8_to_grey": to_grey["rgb8.png"], "rgba8_over_white": over_white, "short_side": short,
              "center_crop": crop}
    with open(os.path.join(OUT, "images.json"), "w") as f:
        json.dump(golden, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
