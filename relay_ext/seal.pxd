# Everything cryptographic of the packet plane: datagram protection, replay windows, the handshake gate.
#
# A key or a gate is used by one thread at a time. Functions that return int answer 0, or -1 on failure,
# unless they say otherwise.
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

# ---- datagram protection ---------------------------------------------------------------------

cdef enum:
    SEAL_TAG = 16       # bytes that sealing adds
    SEAL_HEADER = 16    # bytes of header, the associated data
    SEAL_KEY = 32

cdef enum:              # as negotiated in the handshake; only ever appended to
    CIPHER_CHACHA20_POLY1305 = 1
    CIPHER_AES_256_GCM = 2

cdef struct seal_key    # a cipher context kept keyed, one a direction

cdef seal_key *seal_key_new(int cipher, const uint8_t *key, bint sealing) noexcept nogil  # NULL: failed
cdef void seal_key_free(seal_key *k) noexcept nogil  # cleanses; NULL is allowed
cdef int seal_key_secret(const seal_key *k, uint8_t *secret) noexcept nogil  # its cipher; fills SEAL_KEY bytes, the key

# Seals data[0:n] in place and puts the tag behind it. The nonce is 4 zero bytes and the counter, little-endian;
# never use a counter twice. After -1 `data` may still be plaintext and must not be sent.
cdef int seal_in_place(seal_key *k, uint64_t counter, const uint8_t *header, uint8_t *data, size_t n) noexcept nogil

# The plaintext's length, or -1: not authentic, and `dst` (which may be `src`) then holds rubbish.
cdef int seal_open(seal_key *k, uint64_t counter, const uint8_t *header, const uint8_t *src,
                   size_t n_with_tag, uint8_t *dst) noexcept nogil

# ---- replay window (RFC 6479) ----------------------------------------------------------------

cdef enum:
    REPLAY_WINDOW = 8192  # counters; one word more than that, so that a word is cleared as a whole
    REPLAY_WORDS = 129

ctypedef struct replay_window:
    uint64_t next         # highest counter committed + 1; 0: none yet
    uint64_t words[129]

cdef inline void replay_init(replay_window *w) noexcept nogil:
    memset(w, 0, sizeof(replay_window))

cdef inline bint replay_check(const replay_window *w, uint64_t counter) noexcept nogil:
    """Whether the counter is new. Asked before opening; `replay_commit` follows only what was authentic."""
    if counter >= w.next:
        return counter != UINT64_MAX  # Noise reserves it
    if w.next - counter > REPLAY_WINDOW:
        return False
    return not w.words[(counter >> 6) % REPLAY_WORDS] >> (counter & 63) & 1

cdef inline void replay_commit(replay_window *w, uint64_t counter) noexcept nogil:
    """Marks a counter for which `replay_check` has just said yes."""
    cdef uint64_t block, blocks, i
    if counter >= w.next:
        block = (w.next - 1) >> 6 if w.next else 0
        blocks = (counter >> 6) - block
        for i in range(blocks if blocks < REPLAY_WORDS else REPLAY_WORDS):
            w.words[((counter >> 6) - i) % REPLAY_WORDS] = 0
        w.next = counter + 1
    w.words[(counter >> 6) % REPLAY_WORDS] |= <uint64_t>1 << (counter & 63)

# ---- the handshake gate: MAC1 and cookies, before Python sees anything ------------------------

cdef enum:
    GATE_ADDRESS = 18     # bytes: address (IPv4 mapped), port big-endian
    GATE_REPLY = 64       # bytes of a cookie reply, and the least that a handshake datagram has
    GATE_SECRET = 32

cdef enum:
    GATE_PASS = 0
    GATE_BAD_MAC1 = 1
    GATE_COOKIE = 2       # under load and no valid cookie: send `reply`
    GATE_DROP = 3         # under load: this source has spent its allowance, or no cookie can be made
    GATE_SHORT = 4        # fewer than GATE_REPLY bytes

cdef struct gate

cdef gate *gate_new(const uint8_t *local_public_key) noexcept nogil  # NULL: failed
cdef void gate_free(gate *g) noexcept nogil  # cleanses; NULL is allowed
# The new cookie secret; the one before it stays valid until the next call. Until the first, load means
# GATE_DROP.
cdef int gate_set_secret(gate *g, const uint8_t *secret32) noexcept nogil
# Judges an initiation or a response (types 1 and 2). `reply` has room for GATE_REPLY bytes.
cdef int gate_check(gate *g, int64_t now_ns, const uint8_t *address18, const uint8_t *datagram, size_t n,
                    uint8_t *reply, size_t *reply_len) noexcept nogil
