"""H.264 as cameras send it: encoded as it is seen, and cut into RTP packets (RFC 6184, FU-A)."""

import base64
import struct
from collections.abc import Iterator
from fractions import Fraction

import av

from pipeline.letterbox import Picture

PAYLOAD_BYTES = 1300
RTP_H264 = 96
FU_A = 28
MARKER = 0x80
PARAMETER_SETS = (7, 8)
SLICES = (1, 5)


class Encoder:
    """One stream: a key frame every `gop` pictures."""

    def __init__(self, width: int, height: int, gop: int = 25) -> None:
        codec = av.CodecContext.create("libx264", "w")
        assert isinstance(codec, av.VideoCodecContext)
        codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, "yuv420p", Fraction(1, 25)
        codec.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(gop), "forced-idr": "1"}
        self._codec = codec

    def nals(self, picture: Picture) -> list[bytes]:
        """The picture's NAL units, without start codes."""
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        return [nal for packet in self._codec.encode(frame) for nal in split(bytes(packet))]


def split(stream: bytes) -> list[bytes]:
    """NAL units of a byte stream (Annex B). An empty unit can't be."""
    return [nal for nal in stream.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01") if nal]


def sdp_lines(nals: list[bytes]) -> str:
    """What the session description says of a stream that begins with these units."""
    sets = ",".join(base64.b64encode(nal).decode() for nal in nals if nal[0] & 0x1F in PARAMETER_SETS)
    return (
        f"m=video 0 RTP/AVP {RTP_H264}\r\na=rtpmap:{RTP_H264} H264/90000\r\n"
        f"a=fmtp:{RTP_H264} packetization-mode=1;sprop-parameter-sets={sets}\r\na=control:trackID=0\r\n"
    )


def packets(nals: list[bytes], timestamp: int, numbers: Iterator[int]) -> Iterator[bytes]:
    """One picture as RTP packets."""
    payloads = [payload for nal in nals for payload in _payloads(nal)]
    for index, payload in enumerate(payloads):
        mark = MARKER if index == len(payloads) - 1 else 0
        number = next(numbers) & 0xFFFF
        yield struct.pack(">BBHII", 0x80, RTP_H264 | mark, number, timestamp & 0xFFFFFFFF, 1) + payload


def _payloads(nal: bytes) -> Iterator[bytes]:
    if len(nal) <= PAYLOAD_BYTES:
        yield nal
        return
    indicator, kind = nal[0] & 0xE0 | FU_A, nal[0] & 0x1F
    for start in range(1, len(nal), PAYLOAD_BYTES):
        first, last = start == 1, start + PAYLOAD_BYTES >= len(nal)
        yield bytes([indicator, first << 7 | last << 6 | kind]) + nal[start : start + PAYLOAD_BYTES]
