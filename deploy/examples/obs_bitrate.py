"""OBS Studio script: the streaming encoder follows the bitrate that a relay node says its hop carries.

Tools, Scripts, Python Settings (a Python of OBS's version), then + and this file. It works on OBS's own
encoders that take a new bitrate while they run, such as x264 and NVENC in CBR; not on "Custom Output
(FFmpeg)", whose encoder is inside the output and cannot be reached. The node is asked in a thread of its own,
so that one that does not answer never holds up OBS.
"""

import json
import threading
import urllib.parse
import urllib.request

import obspython as obs

POLL_S = 1.0
APPLY_MS = 500
SHARE = 0.9  # of the target, for the encoder: headers, and what it does beyond its setting, take the rest
STEP = 0.03  # a smaller change is not worth it


class Target:
    """What the node said last, in kb/s; None: nothing that is known."""

    def __init__(self):
        self.kbps = None
        self.api, self.stream, self.highest, self.least = "", "", 4000, 300
        self._stop = threading.Event()
        self._thread = None

    def start(self):
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        self._stop.set()
        self._thread.join(3)

    def _run(self):
        while not self._stop.wait(POLL_S):
            self.kbps = self._ask()

    def _ask(self):
        try:
            url = f"{self.api}/v1/streams/{urllib.parse.quote(self.stream, safe='')}"
            with urllib.request.urlopen(url, timeout=2) as answer:
                tracks = json.load(answer)["tracks"]
        except (OSError, ValueError):
            return None
        known = [
            t["target_bitrate"] for t in tracks if t["kind"] != "audio" and t["target_bitrate"] is not None
        ]
        return sum(known) / 1000 * SHARE if known else None


target = Target()


def apply():
    """On OBS's own thread."""
    output = obs.obs_frontend_get_streaming_output()
    if output is None:
        return
    encoder = obs.obs_output_get_video_encoder(output) if obs.obs_output_active(output) else None
    if encoder is not None and target.kbps is not None:
        kbps = round(max(target.least, min(target.kbps, target.highest)))
        settings = obs.obs_encoder_get_settings(encoder)
        now = obs.obs_data_get_int(settings, "bitrate")
        if abs(kbps - now) > STEP * now:
            obs.obs_data_set_int(settings, "bitrate", kbps)
            obs.obs_encoder_update(encoder, settings)
        obs.obs_data_release(settings)
    obs.obs_output_release(output)


def script_description():
    return "The streaming encoder follows the bitrate that a relay node's hop carries."


def script_properties():
    properties = obs.obs_properties_create()
    obs.obs_properties_add_text(properties, "api", "API of the node", obs.OBS_TEXT_DEFAULT)
    obs.obs_properties_add_text(properties, "stream", "Stream", obs.OBS_TEXT_DEFAULT)
    obs.obs_properties_add_int(properties, "highest", "Highest bitrate, kb/s", 100, 100000, 100)
    obs.obs_properties_add_int(properties, "least", "Least bitrate, kb/s", 50, 100000, 50)
    return properties


def script_defaults(settings):
    obs.obs_data_set_default_string(settings, "api", "http://127.0.0.1:7480")
    obs.obs_data_set_default_string(settings, "stream", "studio")
    obs.obs_data_set_default_int(settings, "highest", target.highest)
    obs.obs_data_set_default_int(settings, "least", target.least)


def script_update(settings):
    target.api = obs.obs_data_get_string(settings, "api").rstrip("/")
    target.stream = obs.obs_data_get_string(settings, "stream")
    target.highest = obs.obs_data_get_int(settings, "highest")
    target.least = obs.obs_data_get_int(settings, "least")


def script_load(settings):
    target.start()
    obs.timer_add(apply, APPLY_MS)


def script_unload():
    obs.timer_remove(apply)
    target.stop()
