"""crypto: the published vectors of each RFC, and what is refused."""

import random
import ssl

import pytest

from relay_ext import crypto
from relay_ext.seal import AuthenticationError

X25519 = (  # RFC 7748 section 5.2
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
)
BOB = (  # section 6.1: private key, public key, Alice's public key, shared secret
    "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
    "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
)
LOW_ORDER = (  # the points of order 1, 2, 4 and 8, and those of them that are written above 2^255 - 19
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    *((2**255 - 19 + n).to_bytes(32, "little") for n in (-1, 0, 1)),
)
ED25519 = (  # RFC 8032 section 7.1: private key, public key, message, signature
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da0"
        "85ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac1"
        "8ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
)
SUNSCREEN = (  # RFC 8439 section 2.8.2: key, nonce, associated data, plaintext, sealed
    bytes(range(0x80, 0xA0)),
    bytes.fromhex("070000004041424344454647"),
    bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it.",
    bytes.fromhex(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
        "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    ),
)


@pytest.mark.parametrize("vector", X25519, ids=lambda v: v[0][:8])
def test_x25519_by_the_vectors(vector: tuple[str, str, str]) -> None:
    private, public, shared = map(bytes.fromhex, vector)
    assert crypto.x25519(private, public) == shared


def test_x25519_a_thousand_times_over() -> None:
    key = point = bytes([9]) + bytes(31)
    for _ in range(1000):
        key, point = crypto.x25519(key, point), key
    assert key.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_x25519_between_two() -> None:
    private, public, alice, shared = map(bytes.fromhex, BOB)
    assert crypto.x25519_public_key(private) == public
    assert crypto.x25519(private, alice) == shared


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda p: p.hex()[:8])
def test_points_of_low_order_are_refused(point: bytes) -> None:
    for high in (0, 0x80):  # the top bit is ignored (RFC 7748 section 5)
        with pytest.raises(ValueError, match="low order"):
            crypto.x25519(bytes(range(32)), point[:31] + bytes([point[31] | high]))


@pytest.mark.parametrize("vector", ED25519, ids=lambda v: v[0][:8])
def test_ed25519_by_the_vectors(vector: tuple[str, str, str, str]) -> None:
    private, public, message, signature = map(bytes.fromhex, vector)
    assert crypto.ed25519_public_key(private) == public
    assert crypto.ed25519_sign(private, message) == signature
    crypto.ed25519_verify(public, message, signature)


def test_ed25519_refuses_what_was_changed() -> None:
    public, message, signature = map(bytes.fromhex, ED25519[2][1:])
    other = bytes.fromhex(ED25519[1][1])
    forged = [(other, message, signature), (public, message + b"!", signature)]
    for at in range(64):
        changed = bytearray(signature)
        changed[at] ^= 1
        forged.append((public, message, bytes(changed)))
    order = 2**252 + 27742317777372353535851937790883648493  # S + L is not canonical (section 8.4)
    malleable = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    forged.append((public, message, signature[:32] + malleable))
    for attempt in forged:
        with pytest.raises(AuthenticationError):
            crypto.ed25519_verify(*attempt)


def test_chacha20_poly1305_by_the_vector() -> None:
    key, nonce, associated, plaintext, sealed = SUNSCREEN
    assert crypto.chacha20_poly1305_seal(key, nonce, associated, plaintext) == sealed
    assert crypto.chacha20_poly1305_open(key, nonce, associated, sealed) == plaintext


def test_chacha20_poly1305_of_every_small_length() -> None:
    rng = random.Random(5)
    for size in range(70):
        key, nonce = rng.randbytes(32), rng.randbytes(12)
        associated, plaintext = rng.randbytes(rng.randrange(40)), rng.randbytes(size)
        sealed = crypto.chacha20_poly1305_seal(key, nonce, associated, plaintext)
        assert len(sealed) == size + 16
        assert crypto.chacha20_poly1305_open(key, nonce, associated, sealed) == plaintext


def test_chacha20_poly1305_refuses_what_was_changed() -> None:
    key, nonce, associated, _, sealed = SUNSCREEN
    forged = [(nonce, b"", sealed), (bytes(12), associated, sealed)]
    forged += [(nonce, associated, sealed[:size]) for size in (0, 1, 15, 16, len(sealed) - 1)]
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 0x80
        forged.append((nonce, associated, bytes(changed)))
    for attempt in forged:
        with pytest.raises(AuthenticationError):
            crypto.chacha20_poly1305_open(key, *attempt)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_length_are_refused(size: int) -> None:
    wrong, right = bytes(size), bytes(range(32))
    for call in (
        lambda: crypto.x25519_public_key(wrong),
        lambda: crypto.x25519(wrong, right),
        lambda: crypto.x25519(right, wrong),
        lambda: crypto.ed25519_public_key(wrong),
        lambda: crypto.ed25519_sign(wrong, b""),
        lambda: crypto.ed25519_verify(wrong, b"", bytes(64)),
        lambda: crypto.ed25519_verify(right, b"", bytes(size)),
        lambda: crypto.chacha20_poly1305_seal(wrong, bytes(12), b"", b""),
        lambda: crypto.chacha20_poly1305_open(right, wrong, b"", bytes(16)),
    ):
        with pytest.raises(ValueError, match=f"not {size}"):
            call()


def test_a_refusal_leaves_no_error_behind_for_ssl() -> None:
    with pytest.raises(ValueError, match="low order"):
        crypto.x25519(bytes(range(32)), bytes(32))
    with pytest.raises(AuthenticationError):
        crypto.ed25519_verify(bytes.fromhex(ED25519[0][1]), b"", bytes(64))
    server, client = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(server, client, server_hostname="relay.test")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
