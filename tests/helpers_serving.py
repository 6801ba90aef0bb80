"""Streams on the loopback: MPEG-TS over HTTP and H.264 over RTSP, which die, fall silent and come back as told."""

import base64
import contextlib
import io
import os
import socket
import struct
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIDE = (64, 48)


def moving(count, width=SIDE[0], height=SIDE[1], start=0):
    """RGB frames that all differ: a bar that wanders over a ramp."""
    ramp = np.linspace(0, 200, width, dtype=np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)
    frames = []
    for number in range(start, start + count):
        frame = ramp.copy()
        left = 5 * number % (width - 8)
        frame[:, left : left + 8, number % 3] = 255
        frames.append(frame)
    return frames


def write_stream(file, frames, rate=10, form="mpegts", codec="libx264", pix_fmt="yuv420p", options=None):
    """Encode frames into a container; each is a packet of its own, and every fourth one needs no other."""
    fast = {"preset": "ultrafast", "tune": "zerolatency", "g": "4"} if codec == "libx264" else {}
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, options=options or fast)
        height, width = frames[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def mpegts(frames, rate=10):
    """The bytes of an MPEG-TS stream."""
    return write_stream(io.BytesIO(), frames, rate).getvalue()


def lossless(path, frames, rate=10):
    """A file whose decoded frames are exactly these."""
    return write_stream(str(path), frames, rate, "matroska", "ffv1", "bgr0") and path


def access_units(frames, rate=10):
    """[NAL units of one picture] of each frame, the parameter sets with every fourth."""
    raw = write_stream(io.BytesIO(), frames, rate, "h264").getvalue()
    units, nals = [], [nal for nal in raw.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if nal]
    picture = []
    for nal in nals:
        picture.append(nal)
        if nal[0] & 31 in (1, 5):  # a slice; there is one a picture
            units.append(picture)
            picture = []
    assert len(units) == len(frames)
    return units


class Server:
    """Listens on the loopback and plays one script for each connection; the last one again and again.

    Args:
        scripts: what connections are given; None refuses one, by closing it.
        port: to listen on; 0 for any.
    """

    def __init__(self, *scripts, port=0):
        self.scripts, self.served, self.requests = scripts, 0, []
        self._ended = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", port))
        self._socket.settimeout(0.1)
        self.port = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._ended.set()
        for thread in self._threads:
            thread.join(10)
        self._socket.close()

    def _accept(self):
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._socket.accept()
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
                self._threads[-1].start()

    def _serve(self, connection):
        connection.settimeout(10)
        with contextlib.suppress(OSError), connection:
            script = self.scripts[min(self.served, len(self.scripts) - 1)]
            self.served += 1
            if script is not None:
                self.play(connection, script)

    def hold(self, connection):
        """Say nothing and keep the line open until the other side hangs up."""
        connection.settimeout(0.05)
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                if not connection.recv(4096):
                    return

    def pause(self, seconds):
        self._ended.wait(seconds)


class HttpServer(Server):
    """Scripts are lists of bytes, of seconds to pause, and of `hold`."""

    def url(self, path="live.ts", user=""):
        return f"http://{user}127.0.0.1:{self.port}/{path}"

    def play(self, connection, script):
        head = connection.recv(4096)
        self.requests.append(head.decode().split("\r\n")[0])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n")
        for item in script:
            if isinstance(item, bytes):
                connection.sendall(item)
            elif item == "hold":
                self.hold(connection)
            else:
                self.pause(item)


SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;sprop-parameter-sets={}\r\na=control:track1\r\n"
)


class RtspServer(Server):
    """RTSP over one TCP connection, pictures interleaved. Scripts are lists of pictures (`access_units`), of seconds to
    pause, of `hold`, and of `damage`, which sends a picture that is none; times of pictures are `rate` apart."""

    def __init__(self, *scripts, rate=10, port=0):
        self.rate = rate
        super().__init__(*scripts, port=port)

    def url(self, user=""):
        return f"rtsp://{user}127.0.0.1:{self.port}/door"

    def play(self, connection, script):
        self._connection, sequence = connection, 0
        if not self._shake_hands(connection, script):
            return
        stamp = 90_000
        for item in script:
            if item == "hold":
                self.hold(connection)
            elif isinstance(item, (int, float)):
                self.pause(item)
            else:
                nals = [bytes([0x65]) + b"\xff" * 40] if item == "damage" else item
                for place, nal in enumerate(nals):
                    last = 0x80 if place == len(nals) - 1 else 0
                    packet = struct.pack(">BBHII", 0x80, last | 96, sequence % 65536, stamp, 7) + nal
                    connection.sendall(struct.pack(">BBH", 0x24, 0, len(packet)) + packet)
                    sequence += 1
                stamp += 90_000 // self.rate

    def _shake_hands(self, connection, script):
        """Answer requests until PLAY; whether it came."""
        reader = connection.makefile("rb")
        while request := reader.readline().decode():
            headers = {}
            while line := reader.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            method = request.split()[0]
            self.requests.append(method)
            body, more = "", ""
            if method == "DESCRIBE":
                sets = [nal for nal in next(item for item in script if isinstance(item, list)) if nal[0] & 31 in (7, 8)]
                body = SDP.format(",".join(base64.b64encode(nal).decode() for nal in sets))
                more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1;timeout=60\r\n"
            elif method == "PLAY":
                more = f"Session: 1\r\nRTP-Info: url={self.url()}/track1;seq=0;rtptime=90000\r\n"
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers.get('cseq', 0)}\r\n{more}\r\n{body}"
            connection.sendall(answer.encode())
            if method == "PLAY":
                return True
            if method == "TEARDOWN":
                return False
        return False


def free_port():
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def resident():
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def collect(source, count=None, seconds=30.0):
    """The frames of a source, at most so many; closed behind them."""
    frames, end = [], time.monotonic() + seconds
    for frame in source.frames():
        frames.append(frame)
        assert time.monotonic() < end, "it takes too long"
        if len(frames) == count:
            source.close()
            break
    return frames
