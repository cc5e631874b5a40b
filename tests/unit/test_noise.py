"""Noise_IK against the published vectors, and what is refused."""

import json
import random
from pathlib import Path

import pytest

from relay.core.keys import KeyFormatError, format_key, parse_key, private_key_file, public_key_text
from relay.core.noise import (
    CipherState,
    Initiator,
    NoiseError,
    Responder,
    diffie_hellman,
    public_key,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/noise_ik.json").read_text())["vectors"]
IK = [v for v in VECTORS if v["protocol_name"] == "Noise_IK_25519_ChaChaPoly_BLAKE2s"]


def raw(vector: dict[str, str], name: str) -> bytes:
    return bytes.fromhex(vector[name])


@pytest.mark.parametrize("vector", IK, ids=lambda v: v["handshake_hash"][:8])
def test_published_vectors(vector):
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    initiator = Initiator(
        raw(vector, "init_prologue"),
        raw(vector, "init_static"),
        raw(vector, "init_ephemeral"),
        raw(vector, "init_remote_static"),
    )
    responder = Responder(raw(vector, "resp_prologue"), raw(vector, "resp_static"))

    first, second, *transport = messages
    assert initiator.write(first[0]) == first[1]
    assert responder.read_static(first[1]) == public_key(raw(vector, "init_static"))
    assert responder.read_payload() == first[0]
    assert responder.write(raw(vector, "resp_ephemeral"), second[0]) == second[1]
    assert initiator.read(second[1]) == second[0]
    assert initiator.handshake_hash == responder.handshake_hash == raw(vector, "handshake_hash")

    send, receive = initiator.split()
    assert responder.split() == (receive, send)
    ciphers = [CipherState(send), CipherState(receive)]
    for i, (payload, ciphertext) in enumerate(transport):
        assert ciphers[i % 2].seal(b"", payload) == ciphertext


def test_the_vector_file_has_ik_vectors():
    assert IK


def pair(seed: int = 1) -> tuple[Initiator, Responder, bytes]:
    rng = random.Random(seed)
    static, remote = rng.randbytes(32), rng.randbytes(32)
    return Initiator(b"p", static, rng.randbytes(32), public_key(remote)), Responder(b"p", remote), remote


def test_every_flipped_bit_of_message_1_is_refused():
    initiator, _, remote = pair()
    message = initiator.write(b"hello")
    for position in range(len(message)):
        if position == 31:
            continue  # the top bit of the ephemeral key is ignored by X25519, but not by the hash
        forged = bytearray(message)
        forged[position] ^= 1
        responder = Responder(b"p", remote)
        with pytest.raises(NoiseError):
            responder.read_static(bytes(forged))
            responder.read_payload()


def test_every_flipped_bit_of_message_2_is_refused():
    for position in range(32 + 3 + 16):
        initiator, responder, _ = pair()
        responder.read_static(initiator.write(b""))
        responder.read_payload()
        answer = bytearray(responder.write(bytes(range(32)), b"abc"))
        answer[position] ^= 0x80
        with pytest.raises(NoiseError):
            initiator.read(bytes(answer))


def test_a_different_prologue_is_refused():
    initiator, _, remote = pair()
    with pytest.raises(NoiseError):
        Responder(b"q", remote).read_static(initiator.write(b""))


@pytest.mark.parametrize("length", [0, 1, 31, 32, 79, 95])
def test_short_messages_are_refused(length):
    initiator, responder, _ = pair()
    message = initiator.write(b"")
    with pytest.raises(NoiseError):
        responder.read_static(message[:length])
    with pytest.raises(NoiseError):
        initiator.read(bytes(min(length, 47)))


def test_public_keys_of_low_order_are_refused():
    with pytest.raises(NoiseError):
        diffie_hellman(bytes([7]) * 32, bytes(32))
    with pytest.raises(NoiseError):
        Initiator(b"p", bytes([1]) * 32, bytes([2]) * 32, bytes(32)).write(b"")


def test_key_text_round_trip():
    private = random.Random(3).randbytes(32)
    assert parse_key(private_key_file(private)) == private
    assert public_key_text(private_key_file(private)) == format_key(public_key(private))
    assert len(format_key(private)) == 44


@pytest.mark.parametrize("text", ["", "AAAA", "!" * 44, "A" * 44 + "AAAA", format_key(bytes(31)), "ключ"])
def test_what_is_not_a_key_is_refused(text):
    with pytest.raises(KeyFormatError):
        parse_key(text)
