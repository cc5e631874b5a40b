"""seal: the AEADs against `cryptography`, the replay window against a set, the gate against hashlib."""

import ctypes
import hashlib
import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from relay_ext.seal import AuthenticationError, Gate, ReplayWindow, SealKey

CHACHA, AES = 1, 2
CIPHERS = [CHACHA, AES]
SECOND = 1_000_000_000

# ---- datagram protection


def nonce(counter: int) -> bytes:
    return bytes(4) + struct.pack("<Q", counter)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_cryptography(seed: int, cipher: int) -> None:
    rng = random.Random(seed)
    key, header = rng.randbytes(32), rng.randbytes(16)
    sealing, opening = SealKey(cipher, key, True), SealKey(cipher, key, False)
    reference = AESGCM(key) if cipher == AES else ChaCha20Poly1305(key)
    for _ in range(50):
        counter = rng.choice([rng.randrange(2**64), rng.randrange(1000), 2**64 - 1])
        plaintext = rng.randbytes(rng.choice([0, 1, 15, 16, 17, 63, 64, 65, 255, 1172, 1960]))
        sealed = sealing.seal(counter, header, plaintext)
        assert sealed == reference.encrypt(nonce(counter), plaintext, header)
        assert opening.open(counter, header, sealed) == plaintext


def test_rfc_8439_poly1305_key_of_appendix_a4() -> None:
    """Appendix A.4, vector 1: zero key and nonce. The interface fixes the associated data's length, so the
    vector is checked through what it makes the tag of: an empty ciphertext."""
    one_time = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    header = bytes(range(16))
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for block in (header, struct.pack("<QQ", 16, 0)):
        total = (total + int.from_bytes(block + b"\1", "little")) * r % (2**130 - 5)
    tag = (total + int.from_bytes(one_time[16:], "little")) % 2**128
    assert SealKey(CHACHA, bytes(32), True).seal(0, header, b"") == tag.to_bytes(16, "little")


def test_rfc_8439_keystream_of_appendix_a1() -> None:
    """Appendix A.1, vector 2: zero key and nonce, block 1, which is where an AEAD's ciphertext begins."""
    block = bytes.fromhex(
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )
    assert SealKey(CHACHA, bytes(32), True).seal(0, bytes(16), bytes(64))[:64] == block


def gf128(x: int, y: int) -> int:
    """The product of SP 800-38D, section 6.3: bits in GCM's order, the first one the highest."""
    z = 0
    for bit in range(127, -1, -1):
        z ^= y if x >> bit & 1 else 0
        y = (y >> 1) ^ (0xE1 << 120 if y & 1 else 0)
    return z


def test_gcm_specification_test_case_14() -> None:
    """McGrew and Viega, appendix B: zero 256-bit key, nonce, block. They have no associated data; a tag with
    some follows from the hash key and the mask that the vectors give."""
    hash_key = 0xDC95C078A2408989AD48A21492842087
    tag_of_nothing = 0x530F8AFBC74536B9A963B4F1C4CB738B  # test case 13
    ciphertext = 0xCEA7403D4D606B6E074EC5D3BAF39D18
    tag = 0xD0D1C8A799996BF0265B98B5D48AB919
    assert gf128(gf128(ciphertext, hash_key) ^ 128, hash_key) ^ tag_of_nothing == tag  # the vectors agree
    header = bytes(range(16))
    blocks = (int.from_bytes(header, "big"), ciphertext, 128 << 64 | 128)
    total = 0
    for block in blocks:
        total = gf128(total ^ block, hash_key)
    sealed = SealKey(AES, bytes(32), True).seal(0, header, bytes(16))
    assert sealed == (ciphertext << 128 | total ^ tag_of_nothing).to_bytes(32, "big")


@pytest.mark.parametrize("cipher", CIPHERS)
def test_every_changed_bit_is_refused_and_the_key_still_works(cipher: int) -> None:
    key, header = bytes(range(32)), bytes(range(16))
    sealed = SealKey(cipher, key, True).seal(7, header, b"a datagram")
    opening = SealKey(cipher, key, False)
    for bit in range(len(sealed) * 8):
        forged = bytearray(sealed)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AuthenticationError):
            opening.open(7, header, bytes(forged))
    for bit in range(128):
        changed = bytearray(header)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AuthenticationError):
            opening.open(7, bytes(changed), sealed)
    with pytest.raises(AuthenticationError):
        opening.open(8, header, sealed)
    assert opening.open(7, header, sealed) == b"a datagram"


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("n", range(26))
def test_truncated(n: int, cipher: int) -> None:
    sealed = SealKey(cipher, bytes(32), True).seal(0, bytes(16), b"0123456789")
    with pytest.raises(AuthenticationError):
        SealKey(cipher, bytes(32), False).open(0, bytes(16), sealed[:n])


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        SealKey(CHACHA, bytes(31), True)
    with pytest.raises(ValueError, match="no such cipher: 3"):
        SealKey(3, bytes(32), True)
    with pytest.raises(TypeError, match="either seals or opens"):
        SealKey(CHACHA, bytes(32), True).open(0, bytes(16), bytes(16))
    with pytest.raises(TypeError, match="either seals or opens"):
        SealKey(CHACHA, bytes(32), False).seal(0, bytes(16), b"")
    with pytest.raises(ValueError, match="16 bytes, not 15"):
        SealKey(CHACHA, bytes(32), True).seal(0, bytes(15), b"")
    with pytest.raises(ValueError, match="size is at most 2032"):
        SealKey(CHACHA, bytes(32), True).run(1, 2033)


# ---- replay window


class Replays:
    """The window as a set."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.highest = -1

    def check(self, counter: int) -> bool:
        return counter != 2**64 - 1 and counter not in self.seen and counter > self.highest - 8192

    def commit(self, counter: int) -> None:
        self.seen.add(counter)
        self.highest = max(self.highest, counter)


@pytest.mark.parametrize("seed", range(10))
def test_replay_window_is_a_set(seed: int) -> None:
    rng = random.Random(seed)
    window, oracle = ReplayWindow(), Replays()
    base = rng.choice([0, 0, 60, 2**32 - 5000, 2**63 - 5000])
    for step in range(20000):
        counter = max(0, base + rng.randrange(-9000, 200))
        assert window.check(counter) == oracle.check(counter), f"seed {seed}, step {step}, counter {counter}"
        if oracle.check(counter) and rng.random() < 0.9:
            window.commit(counter)
            oracle.commit(counter)
        base += rng.choice([0, 1, 1, 2, 63, 64, 65, rng.choice([0] * 200 + [8191, 8192, 8256, 100000])])


@pytest.mark.parametrize("jump", [8191, 8192, 8193, 8255, 8256, 8257, 8320, 20000, 10**12])
def test_nothing_old_is_left_after_a_jump(jump: int) -> None:
    window, oracle = ReplayWindow(), Replays()
    for counter in [*range(8300), 8299 + jump]:
        window.commit(counter)
        oracle.commit(counter)
    for counter in range(8299 + jump - 8200, 8299 + jump + 2):
        assert window.check(counter) == oracle.check(counter), counter


def test_replay_window_edges() -> None:
    window = ReplayWindow()
    assert window.check(0)
    assert not window.check(2**64 - 1)
    window.commit(0)
    assert not window.check(0)
    window.commit(8191)
    assert not window.check(0)
    assert window.check(1)
    window.commit(8193)
    assert not window.check(1)
    assert window.check(2)
    window.commit(2**64 - 2)
    assert not window.check(2**64 - 2)
    assert window.check(2**64 - 1 - 8192)
    assert not window.check(2**64 - 2 - 8192)


# ---- the gate, against WireGuard's construction in hashlib

PUBLIC = bytes(range(100, 132))
HERE = bytes(10) + b"\xff\xff\xc0\x00\x02\x01" + b"\x1d\x4c"


def mac(key: bytes, data: bytes, size: int = 16) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=size).digest()


def initiation(body: bytes = bytes(100), cookie: bytes | None = None, index: bytes = b"indx") -> bytes:
    head = b"\1\1\0\0" + index + body
    head += mac(hashlib.blake2s(b"mac1----" + PUBLIC).digest(), head)
    return head + (mac(cookie, head) if cookie else bytes(16))


def open_cookie(datagram: bytes, reply: bytes) -> bytes:
    assert reply[:4] == b"\3\0\0\0"
    assert reply[4:8] == datagram[4:8]
    assert len(reply) == 64
    key = mac(hashlib.blake2s(b"cookie--" + PUBLIC).digest(), reply[8:32], 32)
    return ChaCha20Poly1305(key).decrypt(bytes(12), reply[32:], datagram[-32:-16])


def loaded(secret: bytes | None = b"s" * 32, now_ns: int = 0) -> Gate:
    """A gate that has just accepted 50 datagrams."""
    gate = Gate(PUBLIC)
    if secret:
        gate.set_secret(secret)
    for _ in range(50):
        assert gate.check(now_ns, HERE, initiation()) == (Gate.PASS, b"")
    return gate


def take_cookie(gate: Gate, now_ns: int = 0, address: bytes = HERE) -> bytes:
    verdict, reply = gate.check(now_ns, address, initiation())
    assert verdict == Gate.COOKIE
    return open_cookie(initiation(), reply)


def test_mac1() -> None:
    gate = Gate(PUBLIC)
    good = initiation()
    assert gate.check(0, HERE, good) == (Gate.PASS, b"")
    for bit in range((len(good) - 16) * 8):
        forged = bytearray(good)
        forged[bit // 8] ^= 1 << bit % 8
        assert gate.check(0, HERE, bytes(forged)) == (Gate.BAD_MAC1, b"")
    assert Gate(bytes(32)).check(0, HERE, good) == (Gate.BAD_MAC1, b"")


@pytest.mark.parametrize("n", [0, 1, 31, 32, 63])
def test_nothing_shorter_than_a_reply_is_judged(n: int) -> None:
    assert loaded().check(0, HERE, initiation()[:n]) == (Gate.SHORT, b"")


@pytest.mark.parametrize("n", [64, 136, 500, 1500])
def test_a_reply_is_never_longer_than_what_it_answers(n: int) -> None:
    verdict, reply = loaded().check(0, HERE, initiation(bytes(n - 40)))
    assert verdict == Gate.COOKIE
    assert len(reply) == 64 <= n


def test_a_cookie_is_of_the_secret_and_the_address() -> None:
    assert take_cookie(loaded(b"s" * 32)) == mac(b"s" * 32, HERE)


def test_salts_differ() -> None:
    gate = loaded()
    salts = [gate.check(0, HERE, initiation())[1][8:32] for _ in range(1000)]
    assert len(set(salts)) == 1000
    other = loaded(b"t" * 32)
    assert other.check(0, HERE, initiation())[1][8:32] not in salts


def test_a_valid_cookie_passes_only_from_its_address() -> None:
    gate = loaded()
    cookie = take_cookie(gate)
    assert gate.check(0, HERE, initiation(cookie=cookie))[0] == Gate.PASS
    assert gate.check(0, HERE[:-1] + b"\0", initiation(cookie=cookie))[0] == Gate.COOKIE
    assert gate.check(0, HERE, initiation(cookie=bytes(15) + b"\1"))[0] == Gate.COOKIE


def test_secrets_rotate() -> None:
    gate = loaded()
    first = take_cookie(gate)
    gate.set_secret(b"t" * 32)
    second = take_cookie(gate)
    assert first != second == mac(b"t" * 32, HERE)
    assert gate.check(0, HERE, initiation(cookie=first))[0] == Gate.PASS
    gate.set_secret(b"u" * 32)
    assert gate.check(0, HERE, initiation(cookie=first))[0] == Gate.COOKIE
    assert gate.check(0, HERE, initiation(cookie=second))[0] == Gate.PASS


def test_load_is_more_than_50_in_a_second() -> None:
    gate = loaded(now_ns=7)
    assert gate.check(7 + SECOND - 1, HERE, initiation())[0] == Gate.COOKIE
    assert gate.check(7 + SECOND, HERE, initiation())[0] == Gate.PASS
    gate = Gate(PUBLIC)
    for step in range(500):  # exactly 50 a second is no load
        assert gate.check(step * SECOND // 50, HERE, initiation())[0] == Gate.PASS


def test_bad_mac1_is_no_load() -> None:
    gate = Gate(PUBLIC)
    for _ in range(1000):
        assert gate.check(0, HERE, initiation()[:-17] + bytes(17))[0] == Gate.BAD_MAC1
    assert gate.check(0, HERE, initiation())[0] == Gate.PASS


def test_without_a_secret_load_is_dropped() -> None:
    assert loaded(secret=None).check(0, HERE, initiation()) == (Gate.DROP, b"")


def sender(gate: Gate, address: bytes) -> Callable[[int], int]:
    """Sends with a valid cookie; answers the verdict."""
    datagram = initiation(cookie=mac(b"s" * 32, address))
    return lambda now_ns: gate.check(now_ns, address, datagram)[0]


def test_a_source_has_a_burst_of_5_and_then_20_a_second() -> None:
    gate = loaded()
    send = sender(gate, HERE)
    assert [send(0) for _ in range(7)] == [Gate.PASS] * 5 + [Gate.DROP] * 2
    passed = sum(send(ms * 1_000_000) == Gate.PASS for ms in range(1, 2001))
    assert passed == 40


def test_the_port_makes_no_new_source_and_another_host_does() -> None:
    gate = loaded()
    assert [sender(gate, HERE)(0) for _ in range(6)][-1] == Gate.DROP
    assert sender(gate, HERE[:16] + b"\x33\x33")(0) == Gate.DROP
    assert sender(gate, HERE[:15] + b"\x02" + HERE[16:])(0) == Gate.PASS


def test_an_ipv6_source_is_its_64() -> None:
    gate = loaded()
    prefix = bytes.fromhex("20010db800000001")
    assert [sender(gate, prefix + bytes(8) + b"ab")(0) for _ in range(6)][-1] == Gate.DROP
    assert sender(gate, prefix + b"\xff" * 8 + b"ab")(0) == Gate.DROP
    assert sender(gate, bytes.fromhex("20010db800000002") + bytes(10))(0) == Gate.PASS


def test_many_sources_cannot_refill_their_own_allowance() -> None:
    """More sources than the table has places: each still gets no more than its burst."""
    gate = loaded()
    passed = {i: 0 for i in range(3000)}
    for _ in range(10):
        for i in passed:
            address = bytes.fromhex("20010db8") + struct.pack(">I", i) + bytes(8) + b"ab"
            passed[i] += sender(gate, address)(0) == Gate.PASS
    assert max(passed.values()) == 5
    assert 500 < sum(count > 0 for count in passed.values()) <= 1024
    assert sender(gate, HERE)(SECOND - 1) == Gate.PASS  # a second later the places are free again


def test_wrong_lengths() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        Gate(bytes(31))
    with pytest.raises(ValueError, match="32 bytes, not 0"):
        Gate(PUBLIC).set_secret(b"")
    with pytest.raises(ValueError, match="18 bytes, not 17"):
        Gate(PUBLIC).check(0, bytes(17), initiation())


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_refused(seed: int) -> None:
    rng = random.Random(seed)
    gate = Gate(PUBLIC)
    for _ in range(2000):
        assert gate.check(0, HERE, rng.randbytes(rng.randrange(300)))[0] in (Gate.SHORT, Gate.BAD_MAC1)


# ---- nothing is allocated per packet

COUNT_ALLOCATIONS = """
import ctypes, json, os
crypto = ctypes.CDLL("libcrypto.so.3")
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.realloc.argtypes = [ctypes.c_size_t], [ctypes.c_void_p, ctypes.c_size_t]
libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
calls = [0]
def count(call):
    def counted(*args):
        calls[0] += 1
        return call(*args)
    return counted
P, N, S, I = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int
malloc = ctypes.CFUNCTYPE(P, N, S, I)(count(lambda n, file, line: libc.malloc(n)))
realloc = ctypes.CFUNCTYPE(P, P, N, S, I)(count(lambda p, n, file, line: libc.realloc(p, n)))
free = ctypes.CFUNCTYPE(None, P, S, I)(lambda p, file, line: libc.free(p))
hooked = crypto.CRYPTO_set_mem_functions(malloc, realloc, free)

from relay_ext.seal import AuthenticationError, Gate, SealKey
spent = {"hooked": hooked}
def measure(name, call):
    call()
    before = calls[0]
    for _ in range(100):
        call()
    spent[name] = calls[0] - before
for cipher in (1, 2):
    sealing, opening = SealKey(cipher, bytes(32), True), SealKey(cipher, bytes(32), False)
    spent["set-up"] = calls[0]
    sealed = sealing.seal(1, bytes(16), bytes(1200))
    measure(f"seal {cipher}", lambda: sealing.seal(1, bytes(16), bytes(1200)))
    measure(f"open {cipher}", lambda: opening.open(1, bytes(16), sealed))
    def forged():
        try:
            opening.open(1, bytes(16), bytes(1216))
        except AuthenticationError:
            pass
    measure(f"forged {cipher}", forged)
gate = Gate(bytes(range(100, 132)))
gate.set_secret(b"s" * 32)
gate.set_secret(b"s" * 32)
good, valid, address = map(bytes.fromhex, DATAGRAMS)
verdicts = set()
measure("bad mac1", lambda: verdicts.add(gate.check(0, address, bytes(136))[0]))
measure("pass, cookie", lambda: verdicts.add(gate.check(0, address, good)[0]))
measure("valid cookie, drop", lambda: verdicts.add(gate.check(0, address, valid)[0]))
spent["verdicts"] = sorted(verdicts)
print(json.dumps(spent), flush=True)
os._exit(0)  # OpenSSL cleans up through the hooks, which the interpreter's end would take away first
"""


def test_openssl_allocates_nothing_per_packet() -> None:
    datagrams = [d.hex() for d in (initiation(), initiation(cookie=mac(b"s" * 32, HERE)), HERE)]
    try:
        ctypes.CDLL("libcrypto.so.3")
    except OSError:
        pytest.skip("libcrypto is not a shared library of version 3 here")
    script = COUNT_ALLOCATIONS.replace("DATAGRAMS", repr(datagrams))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spent = json.loads(done.stdout)
    assert spent.pop("hooked") == 1
    assert spent.pop("set-up") > 0  # the hook counts
    assert spent.pop("verdicts") == [Gate.PASS, Gate.BAD_MAC1, Gate.COOKIE, Gate.DROP]
    assert spent == dict.fromkeys(spent, 0)
