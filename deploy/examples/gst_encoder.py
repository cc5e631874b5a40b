#!/usr/bin/python3
"""A camera or test picture as H.264 to a relay node, which answers what the node says by RTCP.

    gst_encoder.py [--source "v4l2src ! videoconvert"] [--kbps 4000] [--least-kbps 300] HOST PORT

A key frame follows on PLI or FIR (rtpbin does that), and the bitrate follows REMB between the two limits,
while it runs. RTP goes to PORT, RTCP to PORT + 1 and from there back. Debian: gstreamer1.0-plugins-good,
gstreamer1.0-plugins-ugly, python3-gst-1.0.
"""

import argparse
import signal
import sys
from typing import Any

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402

PSFB, APPLICATION_LAYER = 206, 15
HEADROOM = 0.95
"""Of what may be sent, so much is given to the encoder: RTP's headers take the rest."""
PIPELINE = """
    rtpbin name=bin rtp-profile=avpf
    {source} ! videorate ! video/x-raw,framerate={fps}/1 ! videoconvert
      ! x264enc name=encoder tune=zerolatency speed-preset=veryfast bitrate={kbps} vbv-buf-capacity=500
        key-int-max={interval} ! video/x-h264,profile=main
      ! rtph264pay pt=96 mtu=1200 config-interval=-1 aggregate-mode=zero-latency ! bin.send_rtp_sink_0
    bin.send_rtp_src_0 ! udpsink host={host} port={port}
    bin.send_rtcp_src_0 ! udpsink name=rtcp_out host={host} port={rtcp} sync=false async=false
    udpsrc name=rtcp_in ! bin.recv_rtcp_sink_0
"""


def remb(fci: bytes) -> int | None:
    """The bits a second of a REMB's content (draft-alvestrand-rmcat-remb-03, section 2.2)."""
    if len(fci) < 8 or fci[:4] != b"REMB":
        return None
    exponent, mantissa = fci[5] >> 2, int.from_bytes(fci[5:8], "big") & 0x3FFFF
    return mantissa << exponent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="H.264 to a relay node, at the rate that it asks for")
    parser.add_argument("--source", default="videotestsrc is-live=true ! video/x-raw,width=1280,height=720")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--kbps", type=int, default=4000, help="bitrate at the start, and the highest")
    parser.add_argument("--least-kbps", type=int, default=300)
    parser.add_argument(
        "--interval", type=int, default=60, help="frames between key frames that nobody asks for"
    )
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    Gst.init(None)
    pipeline = Gst.parse_launch(PIPELINE.format(rtcp=options.port + 1, **vars(options)))
    encoder = pipeline.get_by_name("encoder")
    # RTCP leaves by the socket that answers come to.
    pipeline.get_by_name("rtcp_in").set_state(Gst.State.READY)
    pipeline.get_by_name("rtcp_out").set_property(
        "socket", pipeline.get_by_name("rtcp_in").get_property("used-socket")
    )

    def on_feedback(_session: Any, kind: int, layout: int, _sender: int, _media: int, fci: Any) -> None:
        if (kind, layout) != (PSFB, APPLICATION_LAYER) or fci is None:
            return
        bitrate = remb(fci.extract_dup(0, fci.get_size()))
        if bitrate is not None:
            kbps = round(bitrate * HEADROOM / 1000)
            encoder.set_property("bitrate", max(options.least_kbps, min(kbps, options.kbps)))
            print("bitrate", encoder.get_property("bitrate"), "kb/s", flush=True)

    def on_event(_pad: Any, info: Any) -> Any:
        if info.get_event().has_name("GstForceKeyUnit"):
            print("key frame", flush=True)
        return Gst.PadProbeReturn.OK

    session = pipeline.get_by_name("bin").emit("get-internal-session", 0)
    session.connect("on-feedback-rtcp", on_feedback)
    encoder.get_static_pad("src").add_probe(Gst.PadProbeType.EVENT_UPSTREAM, on_event)

    loop = GLib.MainLoop()
    failed: list[str] = []

    def on_error(_bus: Any, message: Any) -> None:
        failed.append(message.parse_error()[0].message)
        loop.quit()

    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message::error", on_error)
    for number in (signal.SIGINT, signal.SIGTERM):
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, number, loop.quit)
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    pipeline.set_state(Gst.State.NULL)
    sys.exit("; ".join(failed) or 0)


if __name__ == "__main__":
    main()
