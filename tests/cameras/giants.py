"""Pictures that are small on the wire and gigabytes once decoded."""

import struct
import zlib

import cv2
import numpy as np

WIDTH, HEIGHT = 16000, 16000


def giant_png() -> bytes:
    """A few hundred kilobytes; its last rows are missing, which shows only to whoever decodes the rest."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((WIDTH * 3 + 1) * 1000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def giant_jpeg(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """Of one colour: one row of blocks, again and again, with a restart marker after each."""
    rows = height // 8
    strip = np.full((8, width), 90, np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, 10, cv2.IMWRITE_JPEG_RST_INTERVAL, width // 8]
    jpeg = bytes(cv2.imencode(".jpg", strip, options)[1])
    frame, scan = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xda")
    begin = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4])
    head = jpeg[: frame + 5] + height.to_bytes(2) + jpeg[frame + 7 : begin]
    blocks = jpeg[begin:-2]
    return head + b"".join(blocks + bytes([0xFF, 0xD0 + row % 8]) for row in range(rows - 1)) + blocks + b"\xff\xd9"
