"""An RTSP server that follows a script: it can misbehave, which real ones cannot. MJPEG over TCP.

Threads, not asyncio: it goes on misbehaving while the loop under test is busy. The packet format is RFC 2435.
"""

import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

import cv2

from pipeline.letterbox import Picture
from tests.cameras.pictures import SIZE, black, scene

FRAGMENT_BYTES = 1300
JPEG_TYPE_420 = 1
Q_TABLES_FOLLOW = 255
RTP_JPEG = 26
CLOCK_STEP = 3000
DRIP_S = 0.3


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
    FLOOD = "a thousand frames a second"


@dataclass(frozen=True)
class Script:
    """What to do: the fault sets in after so many good frames."""

    fault: Fault = Fault.NONE
    after_frames: int = 10
    fps: float = 25.0
    moves: bool = True


class ScriptedRtspServer:
    """Listens from entering to leaving; `script` may be replaced meanwhile; `stop` drops everybody."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.connections = 0
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

    def url(self, userinfo: str = "") -> str:
        return f"rtsp://{userinfo}127.0.0.1:{self._port}/stream"

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
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
                self._play(client, script)
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
            client.sendall(self._answer(method, sequence, script))
            if method == "PLAY":
                return True
        return False

    def _answer(self, method: str, sequence: str, script: Script) -> bytes:
        if script.fault is Fault.UNAUTHORIZED and method == "DESCRIBE":
            realm = 'WWW-Authenticate: Digest realm="camera", nonce="0123456789abcdef"'
            return f"RTSP/1.0 401 Unauthorized\r\nCSeq: {sequence}\r\n{realm}\r\n\r\n".encode()
        extra, body = "", ""
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=scripted\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                "m=video 0 RTP/AVP 26\r\na=control:trackID=0\r\n"
            )
            extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1;timeout=60\r\n"
        return f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\nSession: 1\r\n{extra}\r\n{body}".encode()

    def _play(self, client: socket.socket, script: Script) -> None:
        """Send frames by the script until the client or the server goes."""
        numbers = itertools.count()
        started_s = time.monotonic()
        for index in itertools.count():
            in_fault = index >= script.after_frames
            if in_fault and not self._go_on(client, script, numbers):
                return
            for packet in packets(pictured(index, in_fault, script), index * CLOCK_STEP, numbers):
                client.sendall(packet)
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
    if in_fault and script.fault is Fault.BLACK:
        return black()
    if in_fault and script.fault is Fault.FROZEN:
        return scene(script.after_frames)
    if in_fault and script.fault is Fault.RESIZE:
        return scene(index, (400, 224))
    return scene(index, SIZE, script.moves)


def interleaved(channel: int, payload: bytes) -> bytes:
    return struct.pack(">cBH", b"$", channel, len(payload)) + payload


def packets(picture: Picture, timestamp: int, numbers: Iterator[int]) -> Iterator[bytes]:
    """One frame as RTP packets, RFC 2435."""
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    tables, scan = split_jpeg(jpeg)
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
