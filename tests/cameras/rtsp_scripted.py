"""An RTSP server that follows a script: it can misbehave, which real ones cannot. MJPEG or H.264 over TCP.

Threads, not asyncio: it goes on misbehaving while the loop under test is busy. MJPEG is packed as in RFC 2435.
"""

import itertools
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from hashlib import md5
from types import TracebackType
from typing import Self

import cv2

from pipeline.letterbox import Picture
from tests.cameras import rtp_h264
from tests.cameras.pictures import SIZE, black, plain, scene

FRAGMENT_BYTES = 1300
JPEG_TYPE_420 = 1
Q_TABLES_FOLLOW = 255
RTP_JPEG = 26
CLOCK_STEP = 3000
DRIP_S = 0.3
FLIPPED_SHARE = 0.0005
"""Of a damaged picture's bytes: at least one, and enough to be seen."""

REALM, NONCE = "camera", "0123456789abcdef"


class Fault(StrEnum):
    NONE = "none"
    SILENT = "accepts and never answers"
    HANG_DESCRIBE = "hangs in DESCRIBE"
    UNAUTHORIZED = "401"
    STALL = "stalls after the frames"
    STALL_MID_FRAME = "stalls within a frame"
    DRIP = "sends RTCP but no video"
    CLOSE = "closes after the frames"
    RESIZE = "another size after the frames"
    FROZEN = "repeats one frame"
    BLACK = "is black"
    GREY = "is grey, as of a decoder without a key frame"
    GREEN = "is green, as of a decoder without a picture"
    FLOOD = "a thousand frames a second"
    DAMAGED = "flips bits of every picture"
    DAMAGED_AT_TIMES = "flips bits of every third picture"
    CUT = "cuts every picture short"
    REDIRECT = "302"


@dataclass(frozen=True)
class Script:
    """What to do: the fault sets in after so many good frames, and lasts for so many.

    `elsewhere` is where a REDIRECT leads; with `login`, nobody gets in without this user and password (Digest).
    """

    fault: Fault = Fault.NONE
    after_frames: int = 10
    fault_frames: int = 10**9
    fps: float = 25.0
    moves: bool = True
    codec: str = "mjpeg"
    size: tuple[int, int] = SIZE
    elsewhere: str = ""
    login: tuple[str, str] | None = None

    def is_in_fault(self, index: int) -> bool:
        return self.after_frames <= index < self.after_frames + self.fault_frames


class ScriptedRtspServer:
    """Listens from entering to leaving; `script` may be replaced meanwhile; `stop` drops everybody."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.connected_s: list[float] = []
        self.requests: list[str] = []
        self._port = 0
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port), reuse_port=False)
        self._port = self._listener.getsockname()[1]
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="rtsp accept")]
        self._threads[0].start()

    def stop(self) -> None:
        """Drops every client; the port refuses until `start`."""
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in list(self._open):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    @property
    def connections(self) -> int:
        return len(self.connected_s)

    def url(self, userinfo: str = "") -> str:
        return f"rtsp://{userinfo}127.0.0.1:{self._port}/stream"

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connected_s.append(time.monotonic())
            self._open.add(client)
            thread = threading.Thread(target=self._serve, args=(client,), name="rtsp client")
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        script = self.script
        try:
            if script.fault is Fault.SILENT:
                self._stopped.wait()
            elif self._handshake(client, script):
                self._play(client, script.codec, script.size)
        except OSError:
            pass
        finally:
            self._open.discard(client)
            client.close()

    def _handshake(self, client: socket.socket, script: Script) -> bool:
        """Answers until PLAY; True if it came to that."""
        reader = client.makefile("rb")
        while request := reader.readline().decode():
            headers = list(iter(lambda: reader.readline().decode().strip(), ""))
            self.requests += [request.strip(), *headers]
            sequence = next(line.split(":")[1].strip() for line in headers if line.lower().startswith("cseq"))
            method = request.split()[0]
            if script.fault is Fault.HANG_DESCRIBE and method == "DESCRIBE":
                self._stopped.wait()
                return False
            client.sendall(self._answer(request, headers, sequence, script))
            if method == "PLAY":
                return True
        return False

    def _answer(self, request: str, headers: list[str], sequence: str, script: Script) -> bytes:
        method = request.split()[0]
        if method == "DESCRIBE" and not is_let_in(request, headers, script):
            realm = f'WWW-Authenticate: Digest realm="{REALM}", nonce="{NONCE}"'
            return f"RTSP/1.0 401 Unauthorized\r\nCSeq: {sequence}\r\n{realm}\r\n\r\n".encode()
        if method == "DESCRIBE" and script.fault is Fault.REDIRECT:
            return f"RTSP/1.0 302 Found\r\nCSeq: {sequence}\r\nLocation: {script.elsewhere}\r\n\r\n".encode()
        extra, body = "", ""
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=scripted\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n" + media(script)
            extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1;timeout=60\r\n"
        return f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\nSession: 1\r\n{extra}\r\n{body}".encode()

    def _play(self, client: socket.socket, codec: str, size: tuple[int, int]) -> None:
        """Send frames by the script, as it is at that moment, until the client or the server goes."""
        numbers = itertools.count()
        encoder = rtp_h264.Encoder(*size) if codec == "h264" else None
        started_s = time.monotonic()
        for index in itertools.count():
            script = self.script
            in_fault = script.is_in_fault(index)
            if in_fault and not self._go_on(client, script, numbers):
                return
            picture = pictured(index, in_fault, script)
            harm = harm_of(index, script) if in_fault else None
            if encoder:
                nals = [harm(nal) if harm and shows(nal) else nal for nal in encoder.nals(picture)]
                sent = [interleaved(0, rtp) for rtp in rtp_h264.packets(nals, index * CLOCK_STEP, numbers)]
            else:
                sent = list(packets(picture, index * CLOCK_STEP, numbers, harm))
            client.sendall(b"".join(sent))
            fps = 1000.0 if script.fault is Fault.FLOOD else script.fps
            if self._stopped.wait(max(0.0, started_s + (index + 1) / fps - time.monotonic())):
                return

    def _go_on(self, client: socket.socket, script: Script, numbers: Iterator[int]) -> bool:
        """Carry out the faults that end the pictures; True if there are still some to come."""
        if script.fault is Fault.STALL:
            self._stopped.wait()
        elif script.fault is Fault.STALL_MID_FRAME:
            client.sendall(next(packets(scene(0), 0, numbers)))
            self._stopped.wait()
        elif script.fault is Fault.DRIP:
            while not self._stopped.wait(DRIP_S):
                client.sendall(interleaved(1, struct.pack(">BBHIIIIII", 0x80, 200, 6, 1, 0, 0, 0, 0, 0)))
        else:
            return script.fault is not Fault.CLOSE
        return False


def pictured(index: int, in_fault: bool, script: Script) -> Picture:
    """What the camera sees at this frame."""
    match script.fault if in_fault else Fault.NONE:
        case Fault.BLACK:
            return black(script.size)
        case Fault.GREY:
            return plain((128, 128, 128), script.size)
        case Fault.GREEN:
            return plain((0, 135, 0), script.size)
        case Fault.FROZEN:
            return scene(script.after_frames, script.size)
        case Fault.RESIZE:
            return scene(index, (400, 224))
        case _:
            return scene(index, script.size, script.moves)


Harm = Callable[[bytes], bytes]


def harm_of(index: int, script: Script) -> Harm | None:
    """What is done to this picture's bytes."""
    match script.fault:
        case Fault.DAMAGED:
            return partial(damaged, seed=index)
        case Fault.DAMAGED_AT_TIMES if index % 3 == 0:
            return partial(damaged, seed=index)
        case Fault.CUT:
            return lambda content: content[: len(content) // 2]
        case _:
            return None


def shows(nal: bytes) -> bool:
    """Whether the unit holds a picture, not what the decoder has to know before."""
    return nal[0] & 0x1F in rtp_h264.SLICES


def damaged(content: bytes, seed: int) -> bytes:
    """The same with some bits flipped, the same ones at every run; its first quarter stays as it is."""
    lot, flipped = random.Random(seed), bytearray(content)
    start = len(content) // 4
    for _ in range(max(1, int(len(content) * FLIPPED_SHARE))):
        flipped[lot.randrange(start, len(content))] ^= 1 << lot.randrange(8)
    return bytes(flipped)


def media(script: Script) -> str:
    """The stream, as a session description has it."""
    if script.codec == "h264":
        return rtp_h264.sdp_lines(rtp_h264.Encoder(*script.size).nals(scene(0, script.size)))
    return f"m=video 0 RTP/AVP {RTP_JPEG}\r\na=control:trackID=0\r\n"


def is_let_in(request: str, headers: list[str], script: Script) -> bool:
    """Digest as in RFC 2617, without qop."""
    if script.fault is Fault.UNAUTHORIZED:
        return False
    if script.login is None:
        return True
    shown = next((line for line in headers if line.lower().startswith("authorization: digest")), "")
    told = dict(re.findall(r'(\w+)="([^"]*)"', shown))
    method, uri = request.split()[:2]
    who = _md5(f"{script.login[0]}:{REALM}:{script.login[1]}")
    return told.get("response") == _md5(f"{who}:{NONCE}:{_md5(f'{method}:{uri}')}")


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


def interleaved(channel: int, payload: bytes) -> bytes:
    return struct.pack(">cBH", b"$", channel, len(payload)) + payload


def packets(picture: Picture, timestamp: int, numbers: Iterator[int], harm: Harm | None = None) -> Iterator[bytes]:
    """One frame as RTP packets, RFC 2435."""
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    tables, scan = split_jpeg(jpeg)
    scan = harm(scan) if harm else scan
    height, width = picture.shape[:2]
    for offset in range(0, len(scan), FRAGMENT_BYTES):
        last = offset + FRAGMENT_BYTES >= len(scan)
        header = struct.pack(
            ">B3sBBBB", 0, offset.to_bytes(3, "big"), JPEG_TYPE_420, Q_TABLES_FOLLOW, width // 8, height // 8
        )
        if offset == 0:
            header += struct.pack(">BBH", 0, 0, len(tables)) + tables
        number = next(numbers) & 0xFFFF
        rtp = struct.pack(">BBHII", 0x80, RTP_JPEG | (0x80 if last else 0), number, timestamp & 0xFFFFFFFF, 1)
        yield interleaved(0, rtp + header + scan[offset : offset + FRAGMENT_BYTES])


def split_jpeg(jpeg: bytes) -> tuple[bytes, bytes]:
    """The quantisation tables, and the scan behind the SOS header."""
    tables, position = b"", 2
    while True:
        marker, length = struct.unpack(">HH", jpeg[position : position + 4])
        segment = jpeg[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xFFDB:
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        if marker == 0xFFDA:
            return tables, jpeg[position:-2]
