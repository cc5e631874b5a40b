"""What `relay status` prints."""

from typing import Any

import pytest

from relay.web.status_text import ELSEWHERE_MAX, render
from tests.unit.status_sample import sample


def test_the_sample() -> None:
    assert render(sample()) == (
        "edge-sgp-1  ap-southeast  relay 0.1.0  up 2 h 13 min  ready\n"
        "  ! the node is overloaded (91%) and gives up frames\n"
        "  - region-tyo is connecting: no session with it\n"
        "  fleet: record until 2027-01-30T00:00:00Z, 63 d 0 h; 1 of 256 members; 1 revoked\n"
        "  load 91.0% (packet thread 90.0%, reserved 1.0%); sheds frames, 2 sent away; "
        "refused: 3 load, 1 draining\n"
        "\n"
        "STREAM  FROM    TRACK               KBIT/S  RECEIVED  DELIVERED  LOST  LATE  WAIT MS  TO\n"
        "studio  ingest  video H264/90000    2500    27000     26990      4     6     180      "
        "192.0.2.10:6004 192.0.2.11:6004\n"
        "studio  ingest  audio opus/48000/2  -       0         0          0     0     220      -\n"
        "\n"
        "STREAM  HOP                      DELAY MS  LOSS   AFTER REPAIR  ADDED P50 P99  LEAVES\n"
        "studio  edge-sgp-1 > region-sgp  51        30.2%  0.01%         12 161         there\n"
        "studio  region-sgp > region-fra  -         -      -             - -\n"
        "studio  and 3 more               -         -      -             -              -\n"
        "\n"
        "STREAM ELSEWHERE  AT\n"
        "news              region-fra\n"
        "\n"
        "STREAM  ROUTE         COST MS  OF WHICH                                  WHY\n"
        "studio  > region-sgp  115.4    50.0 propagation + 0.3 queue + 65.1 loss  lowest cost, 115.2 ms\n"
        "\n"
        "REGION      OF            SESSION  COST MS  MEASURED S AGO\n"
        "region-sgp  ap-southeast  kept     115.4    0\n"
        "region-fra  eu            rests    -        -\n"
        "\n"
        "HOP         STATE       RTT MS  LOSS OUT IN  SOURCE  RECOVERED  UNRECOVERED  OVERHEAD  "
        "DELAY P50 P99  ADDRESS\n"
        "region-sgp  connected   101.2   30.2% 29.7%  30000   9000       1            0.73      "
        "12 161         203.0.113.7:7400\n"
        "region-tyo  connecting  -       - -          0       0          0            -         "
        "- -            -\n"
        "\n"
        "HOP         PATH  UPLINK  ADDRESS           STATE      CARRIES  RTT MS  LOSS OUT IN  MBYTE OUT IN\n"
        "region-sgp  0     eth0    203.0.113.7:7400  connected  source   101.2   30.0% 29.7%  62.0 0.4\n"
        "region-sgp  1     wwan0   203.0.113.7:7400  connected  repair   60.5    2.0% 0.0%    26.0 0.4\n"
        "\n"
        "HOP         DROPPED BECAUSE  PACKETS\n"
        "region-sgp  replayed         7\n"
        "\n"
        "NODE        REGION        ROLE    CONNECTED  VERSION  AGE S  STREAMS  HEADROOM  LAG MS  "
        "MEMORY FREE  CELSIUS  WRONG, AND ITS COST\n"
        "edge-sgp-1  ap-southeast  edge    self       0.1.0    0.2    1        91%       2       "
        "64%          81       hot 4 ms, throttled 20 ms\n"
        "region-sgp  ap-southeast  region  yes        -        4.5    -        -         -       "
        "-            -        headroom unknown 2 ms\n"
        "\n"
        "EDGES OF    KNOWN     DRAINING  AILING  STREAMS  HEADROOM P50  WORST  HOTTEST C\n"
        "region-sgp  10 of 12  0         0       31       -             5%     -\n"
    )


def test_a_node_that_has_nothing_yet() -> None:
    status = sample()
    status |= {"streams": [], "hops": [], "peers": [], "fleet": None, "directory": []}
    status |= {"ready": False, "findings": []}
    status["node"]["uptime_seconds"] = 3.2
    status["admission"] |= {"shedding": "none", "refused": {}}
    assert render(status) == (
        "edge-sgp-1  ap-southeast  relay 0.1.0  up 3 s  not ready\n  all well\n"
        "  load 91.0% (packet thread 90.0%, reserved 1.0%)\n\nno streams\n"
    )


def test_a_stream_that_came_over_hops_and_one_that_waits() -> None:
    status = sample()
    stream = status["streams"][0]
    stream["path"] = [{**stream["behind"]["hops"][0], "node": name} for name in ("edge", "a", "b")]
    stream |= {"behind": {"nodes": 0, "hops": []}, "leaves": True}
    status["streams"].append({**stream, "name": "news", "path": stream["path"][2:], "waits": "not published"})
    text = render(status)
    assert (
        "STREAM  HOP       DELAY MS  LOSS   AFTER REPAIR  ADDED P50 P99  LEAVES\n"
        "studio  edge > a  51        30.2%  0.01%         12 161\n"
        "studio  a > b     51        30.2%  0.01%         12 161         there\n"
        "\n"
        "STREAM  WAITS BECAUSE\n"
        "news    not published\n"
    ) in text


def test_many_streams_elsewhere_are_counted() -> None:
    status = sample()
    status["directory"] = [{"stream": f"s{i}", "region": None} for i in range(ELSEWHERE_MAX + 3)]
    text = render(status)
    assert "\ns19               -\nand 3 more        -\n" in text


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "no record"),
        ({"revoked": True}, "record REVOKED"),
        ({"expires_in_seconds": 0}, "record EXPIRED 2027-01-30T00:00:00Z"),
    ],
)
def test_a_record_that_is_no_use(record: dict[str, Any] | None, said: str) -> None:
    status = sample()
    status["fleet"]["record"] = record and {**status["fleet"]["record"], **record}
    status["fleet"]["revocations"] = None
    assert render(status).splitlines()[3] == f"  fleet: {said}; 1 of 256 members; 0 revoked"


def test_draining_shows_before_readiness() -> None:
    status = sample()
    status["node"] |= {"draining": True, "uptime_seconds": 200_000}
    assert render(status).splitlines()[0].endswith("up 2 d 7 h  draining")


def test_a_stream_without_a_source_or_a_route() -> None:
    status = sample()
    status["streams"][0] |= {"source": None, "route": {"chosen": None, "why": "no peer", "candidates": []}}
    text = render(status)
    assert "studio  none  video" in text and "ROUTE" not in text


def test_names_of_other_nodes_cannot_drive_the_terminal() -> None:
    status = sample()
    status["hops"][0]["peer"] = "\x1b]0;x\x07\r"
    text = render(status)
    assert "?]0;x??" in text and text.replace("\n", "").isprintable()
