"""What an RTP stream is made of, whether a configuration, an SDP file or a peer says so."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relay.config import Address, RtpIngest
from relay.wire import messages, sdp


@dataclass(frozen=True, slots=True)
class TrackFormat:
    """One track of a stream."""

    kind: str
    """"video", "audio", or "av" for both in one."""
    codec: str
    """As in SDP's rtpmap, "H264/90000"."""
    payload_type: int
    clock_rate: int
    """Hz."""
    fmtp: str = ""

    def message(self, alias: int) -> messages.Track:
        return messages.Track(alias, self.kind, self.codec, self.payload_type, self.clock_rate, self.fmtp)


@dataclass(frozen=True, slots=True)
class TrackSource:
    """A track that enters here, and the address at which its RTP is taken."""

    format: TrackFormat
    listen: Address


def format_of(track: messages.Track) -> TrackFormat:
    """The format that a peer's publication gives."""
    return TrackFormat(track.kind, track.codec, track.payload_type, track.clock_rate, track.fmtp)


def sources_of(ingest: RtpIngest, read: Callable[[Path], str]) -> tuple[TrackSource, ...]:
    """The tracks of an `[[ingest.rtp]]`, from its SDP file where it names one.

    Raises OSError and sdp.SdpError for a file that cannot be used.
    """
    if ingest.sdp is None:
        return tuple(
            TrackSource(TrackFormat(t.kind, t.codec, t.payload_type, t.clock_rate), t.listen)
            for t in ingest.tracks
        )
    return tuple(
        TrackSource(
            TrackFormat(m.kind, m.codec, m.payload_type, int(m.codec.split("/")[1]), m.fmtp or ""),
            Address(m.address or "0.0.0.0", m.port),
        )
        for m in sdp.parse(read(ingest.sdp)).media
    )
