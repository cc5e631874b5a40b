#!/usr/bin/env python3
"""Runs ffmpeg at the bitrate that a relay node says its hop carries.

    ffmpeg_encoder.py --stream studio --local-port 5000 [--api http://127.0.0.1:7480] [--kbps 4000] -- \\
        ffmpeg -re -i in.mp4 -c:v libx264 -b:v {kbps}k -maxrate {kbps}k -bufsize {kbps}k \\
        -f rtp "rtp://192.0.2.1:5004?localrtpport={port}&localrtcpport={rtcp_port}"

ffmpeg's command line cannot change the bitrate of an encoder that runs, so it is started anew: with another
SSRC and a key frame, from the same UDP ports, so that the node follows at once and not after 2 s of silence.
Viewers see the picture stand for as long as the input takes to open. That is why it happens only when the
target is below the bitrate, or far above it, and not again for a while. Needs Python 3.11 and nothing else.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.request

POLL_S = 1.0
LOWER, RAISE = 0.95, 1.4
"""A target below or above the bitrate in use by these factors is worth a restart."""
REST_LOWER_S, REST_RAISE_S = 5.0, 30.0
"""After a start no other for so long, in that direction."""
SHARE = 0.9
"""Of the target, for the encoder: headers, and what it does beyond its setting, take the rest."""


def target_kbps(api: str, stream: str) -> float | None:
    """What the node's hop leaves the stream's video; None: not known, or the node does not answer."""
    try:
        with urllib.request.urlopen(f"{api}/v1/streams/{stream}", timeout=2) as answer:
            tracks = json.load(answer)["tracks"]
    except (OSError, ValueError):
        return None
    targets = [
        t["target_bitrate"] for t in tracks if t["kind"] != "audio" and t["target_bitrate"] is not None
    ]
    return sum(targets) / 1000 if targets else None


def wanted(options: argparse.Namespace) -> int | None:
    target = target_kbps(options.api, options.stream)
    return None if target is None else max(options.least_kbps, min(round(target * SHARE), options.kbps))


def worth_it(kbps: int, now_kbps: int, running_s: float) -> bool:
    if kbps < now_kbps * LOWER:
        return running_s >= REST_LOWER_S
    return kbps > now_kbps * RAISE and running_s >= REST_RAISE_S


def start(options: argparse.Namespace, kbps: int) -> "subprocess.Popen[bytes]":
    values = {"kbps": kbps, "port": options.local_port, "rtcp_port": options.local_port + 1}
    command = [part.format(**values) for part in options.command]
    print("start at", kbps, "kb/s", flush=True)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def stop(encoder: "subprocess.Popen[bytes]") -> None:
    encoder.send_signal(signal.SIGINT)
    try:
        encoder.wait(2)
    except subprocess.TimeoutExpired:
        encoder.kill()
        encoder.wait()


def run(options: argparse.Namespace) -> int:
    """Until ffmpeg ends by itself; its exit code."""
    kbps, began = options.kbps, time.monotonic()
    encoder = start(options, kbps)
    try:
        while encoder.poll() is None:
            time.sleep(POLL_S)
            target = wanted(options)
            if target is not None and worth_it(target, kbps, time.monotonic() - began):
                stop(encoder)
                kbps, began = target, time.monotonic()
                encoder = start(options, kbps)
    finally:
        stop(encoder)
    return encoder.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description="ffmpeg at the bitrate that a relay node asks for")
    parser.add_argument("--api", default="http://127.0.0.1:7480", help="the node's [ops] listener")
    parser.add_argument("--stream", required=True)
    parser.add_argument(
        "--local-port", type=int, required=True, help="ffmpeg's own port of RTP; RTCP's is the next"
    )
    parser.add_argument("--kbps", type=int, default=4000, help="video bitrate at the start, and the highest")
    parser.add_argument("--least-kbps", type=int, default=300)
    parser.add_argument("command", nargs="+", help="ffmpeg with {kbps}, {port} and {rtcp_port} in it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.exit(run(parser.parse_args()))


if __name__ == "__main__":
    main()
