"""A real RTSP server, run by the system's Python, whose GStreamer bindings it needs. Prints its port.

H.264 of a moving or a still pattern: `rtsp_gstreamer.py WIDTH HEIGHT FPS moving|still|noise`.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - only after the versions are chosen

PATTERNS = {
    "moving": "pattern=ball background-color=0xff406080",
    "still": "pattern=smpte100",
    "noise": "pattern=snow",
}


def main() -> None:
    width, height, fps, pattern = sys.argv[1:5]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    factory = GstRtspServer.RTSPMediaFactory()
    picture = f"video/x-raw,width={width},height={height},framerate={fps}/1"
    factory.set_launch(
        f"( videotestsrc is-live=true {PATTERNS[pattern]} ! {picture}"
        " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96 )"
    )
    factory.set_shared(True)
    server.get_mount_points().add_factory("/stream", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
