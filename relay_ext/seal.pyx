# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
# Bounds: every index is reduced to its table's size; the Python classes check lengths before any call.
"""Datagram protection, replay windows and the handshake gate, on OpenSSL's EVP interface.

Contexts are made and keyed once; a datagram sets only the nonce. OpenSSL then allocates nothing (a test
counts).

The gate is WireGuard's (whitepaper, sections 5.3 and 5.4.4 to 5.4.7) but for the cipher of the cookie reply.
The last 32 bytes of an initiation or a response are `mac1 16, mac2 16`; its sender index is bytes 4 to 8.

    mac1   = BLAKE2s-128(key = BLAKE2s-256("mac1----" || receiver's public key), everything before mac1)
    cookie = BLAKE2s-128(key = secret, address 16 || port, big-endian)
    mac2   = BLAKE2s-128(key = cookie, everything before mac2)

Cookie reply, 64 bytes: `type u8 = 3, 3 zero bytes, receiver index u32 (the sender index answered), salt 24,
sealed cookie 16, tag 16`, sealed by ChaCha20-Poly1305 (RFC 8439) with

    key   = BLAKE2s-256(key = BLAKE2s-256("cookie--" || public key of the node that sends the reply), salt)
    nonce = 12 zero bytes: each key seals one cookie
    associated data = mac1 of the datagram answered

Keyed BLAKE2s is RFC 7693's; "BLAKE2s-128" has a digest of 16 bytes, which is not a truncated one of 32.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset


cdef extern from "<openssl/crypto.h>" nogil:
    int CRYPTO_memcmp(const void *a, const void *b, size_t n)
    void OPENSSL_cleanse(void *p, size_t n)

cdef extern from "<openssl/core_names.h>" nogil:
    const char *OSSL_CIPHER_PARAM_AEAD_TAG

cdef extern from "<openssl/params.h>" nogil:
    ctypedef struct OSSL_PARAM:
        void *data
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char *key, void *data, size_t n)
    OSSL_PARAM OSSL_PARAM_construct_size_t(const char *key, size_t *value)
    OSSL_PARAM OSSL_PARAM_construct_end()

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    ctypedef struct EVP_MD:
        pass
    ctypedef struct EVP_MD_CTX:
        pass
    EVP_CIPHER *EVP_CIPHER_fetch(void *libctx, const char *name, const char *properties)
    void EVP_CIPHER_free(EVP_CIPHER *cipher)
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx)
    int EVP_CIPHER_CTX_get_params(EVP_CIPHER_CTX *ctx, OSSL_PARAM *params)
    int EVP_CIPHER_CTX_set_params(EVP_CIPHER_CTX *ctx, const OSSL_PARAM *params)
    int EVP_CipherInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, void *engine, const uint8_t *key,
                          const uint8_t *iv, int sealing)
    int EVP_CipherUpdate(EVP_CIPHER_CTX *ctx, uint8_t *dst, int *dst_len, const uint8_t *src, int n)
    int EVP_CipherFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *dst, int *dst_len)
    EVP_MAC *EVP_MAC_fetch(void *libctx, const char *name, const char *properties)
    void EVP_MAC_free(EVP_MAC *mac)
    EVP_MAC_CTX *EVP_MAC_CTX_new(EVP_MAC *mac)
    void EVP_MAC_CTX_free(EVP_MAC_CTX *ctx)
    int EVP_MAC_init(EVP_MAC_CTX *ctx, const uint8_t *key, size_t n, const OSSL_PARAM *params)
    int EVP_MAC_update(EVP_MAC_CTX *ctx, const uint8_t *data, size_t n)
    int EVP_MAC_final(EVP_MAC_CTX *ctx, uint8_t *out, size_t *out_len, size_t out_size)
    const EVP_MD *EVP_blake2s256()
    EVP_MD_CTX *EVP_MD_CTX_new()
    void EVP_MD_CTX_free(EVP_MD_CTX *ctx)
    int EVP_DigestInit_ex(EVP_MD_CTX *ctx, const EVP_MD *md, void *engine)
    int EVP_DigestUpdate(EVP_MD_CTX *ctx, const void *data, size_t n)
    int EVP_DigestFinal_ex(EVP_MD_CTX *ctx, uint8_t *out, unsigned int *out_len)


# ---- datagram protection ---------------------------------------------------------------------

cdef struct seal_key:
    EVP_CIPHER_CTX *ctx
    OSSL_PARAM tag[2]         # asks for, or gives, the tag at tag[0].data
    bint sealing
    int cipher
    uint8_t secret[SEAL_KEY]


cdef const char *cipher_name(int cipher) noexcept nogil:
    if cipher == CIPHER_CHACHA20_POLY1305:
        return b"ChaCha20-Poly1305"
    if cipher == CIPHER_AES_256_GCM:
        return b"AES-256-GCM"
    return NULL


cdef seal_key *seal_key_new(int cipher, const uint8_t *key, bint sealing) noexcept nogil:
    cdef const char *name = cipher_name(cipher)
    cdef EVP_CIPHER *fetched
    cdef seal_key *k
    if name == NULL:
        return NULL
    k = <seal_key *>calloc(1, sizeof(seal_key))
    if k == NULL:
        return NULL
    k.sealing = sealing
    k.cipher = cipher
    memcpy(k.secret, key, SEAL_KEY)
    k.tag[0] = OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, SEAL_TAG)
    k.tag[1] = OSSL_PARAM_construct_end()
    k.ctx = EVP_CIPHER_CTX_new()
    fetched = EVP_CIPHER_fetch(NULL, name, NULL)
    if k.ctx == NULL or fetched == NULL or not EVP_CipherInit_ex(k.ctx, fetched, NULL, key, NULL, sealing):
        seal_key_free(k)
        k = NULL
    EVP_CIPHER_free(fetched)  # the context holds its own reference
    return k


cdef void seal_key_free(seal_key *k) noexcept nogil:
    if k != NULL:
        EVP_CIPHER_CTX_free(k.ctx)
        OPENSSL_cleanse(k.secret, SEAL_KEY)
        free(k)


cdef int seal_key_secret(const seal_key *k, uint8_t *secret) noexcept nogil:
    memcpy(secret, k.secret, SEAL_KEY)
    return k.cipher


cdef inline bint run_cipher(seal_key *k, uint64_t counter, const uint8_t *header, const uint8_t *src, int n,
                            uint8_t *dst) noexcept nogil:
    """Nonce, associated data, data: each a call, and the data in one, since every further call costs as much
    as ciphering some 200 bytes."""
    cdef uint8_t nonce[12]
    cdef int done, i
    memset(nonce, 0, 4)
    for i in range(8):
        nonce[4 + i] = <uint8_t>(counter >> 8 * i)
    return (EVP_CipherInit_ex(k.ctx, NULL, NULL, NULL, nonce, k.sealing)
            and EVP_CipherUpdate(k.ctx, NULL, &done, header, SEAL_HEADER)
            and EVP_CipherUpdate(k.ctx, dst, &done, src, n))


cdef int seal_in_place(seal_key *k, uint64_t counter, const uint8_t *header, uint8_t *data, size_t n) noexcept nogil:
    cdef uint8_t none[16]
    cdef int done
    k.tag[0].data = data + n
    if (run_cipher(k, counter, header, data, <int>n, data) and EVP_CipherFinal_ex(k.ctx, none, &done)
            and EVP_CIPHER_CTX_get_params(k.ctx, k.tag)):
        return 0
    return -1


cdef int seal_open(seal_key *k, uint64_t counter, const uint8_t *header, const uint8_t *src,
                   size_t n_with_tag, uint8_t *dst) noexcept nogil:
    cdef uint8_t none[16]
    cdef uint8_t tag[16]
    cdef int n, done
    if n_with_tag < SEAL_TAG:
        return -1
    n = <int>(n_with_tag - SEAL_TAG)
    memcpy(tag, src + n, SEAL_TAG)
    k.tag[0].data = tag
    if (run_cipher(k, counter, header, src, n, dst) and EVP_CIPHER_CTX_set_params(k.ctx, k.tag)
            and EVP_CipherFinal_ex(k.ctx, none, &done)):
        return n
    return -1


# ---- the handshake gate ----------------------------------------------------------------------

cdef enum:
    MAC = 16                       # bytes of mac1, mac2 and cookie
    SALT = 24                      # bytes
    COOKIE_REPLY = 3               # datagram type
    LOAD_PACKETS = 50              # more than these with a good mac1 in LOAD_NS is load
    LOAD_NS = 1000000000
    SOURCE_INTERVAL_NS = 50000000  # under load one source may send 20 handshake datagrams a second,
    SOURCE_BURST = 5               # after a burst of 5; both as WireGuard has them
    SOURCE_SETS = 256              # sources remembered: SOURCE_SETS * SOURCE_WAYS, 24 KB
    SOURCE_WAYS = 4
    SOURCE_PREFIX = 16             # bytes: an IPv4 address, or an IPv6 /64 and zeros

ctypedef struct source:
    uint8_t prefix[16]
    int64_t full_at                # when its bucket is full again, ns: from then on it says nothing

cdef struct gate:
    EVP_MAC_CTX *mac1              # keyed by our public key
    EVP_MAC_CTX *mac2              # keyed anew by each cookie
    EVP_MAC_CTX *reply_key         # keyed by our public key, over the salt
    EVP_MAC_CTX *cookie[2]         # keyed by the secret and by the one before
    EVP_MAC_CTX *salt              # keyed by the secret; its digest length sets it apart from a cookie
    seal_key *aead                 # keyed anew by each reply
    int secrets                    # 0, 1, 2: how many of `cookie` are keyed
    uint64_t replies               # made so far; what makes each salt another
    uint64_t accepted              # datagrams with a good mac1
    int64_t times[50]              # of the last LOAD_PACKETS of them
    source sources[256][4]


cdef EVP_MAC_CTX *mac_new(EVP_MAC *mac) noexcept nogil:
    return EVP_MAC_CTX_new(mac) if mac != NULL else NULL


cdef bint mac_key(EVP_MAC_CTX *ctx, const uint8_t *key, size_t n, size_t digest) noexcept nogil:
    cdef OSSL_PARAM params[2]
    params[0] = OSSL_PARAM_construct_size_t("size", &digest)
    params[1] = OSSL_PARAM_construct_end()
    return ctx != NULL and EVP_MAC_init(ctx, key, n, params)


cdef bint mac_run(EVP_MAC_CTX *ctx, const uint8_t *data, size_t n, uint8_t *out) noexcept nogil:
    """One MAC under the key that the context keeps; `out` has room for 32 bytes."""
    cdef size_t done
    return (EVP_MAC_init(ctx, NULL, 0, NULL) and EVP_MAC_update(ctx, data, n)
            and EVP_MAC_final(ctx, out, &done, 32))


cdef bint mac_matches(EVP_MAC_CTX *ctx, const uint8_t *data, size_t n, const uint8_t *mac) noexcept nogil:
    cdef uint8_t expected[32]
    return mac_run(ctx, data, n, expected) and CRYPTO_memcmp(expected, mac, MAC) == 0


cdef bint label_hash(const char *label, const uint8_t *public_key, uint8_t *out) noexcept nogil:
    """BLAKE2s-256 over an 8-byte label and a public key."""
    cdef EVP_MD_CTX *ctx = EVP_MD_CTX_new()
    cdef bint done
    if ctx == NULL:
        return False
    done = (EVP_DigestInit_ex(ctx, EVP_blake2s256(), NULL) and EVP_DigestUpdate(ctx, label, 8)
            and EVP_DigestUpdate(ctx, public_key, 32) and EVP_DigestFinal_ex(ctx, out, NULL))
    EVP_MD_CTX_free(ctx)
    return done


cdef bint gate_key(gate *g, const uint8_t *public_key) noexcept nogil:
    cdef uint8_t key[32]
    memset(key, 0, sizeof(key))
    g.aead = seal_key_new(CIPHER_CHACHA20_POLY1305, key, True)
    return (g.aead != NULL and label_hash(b"mac1----", public_key, key) and mac_key(g.mac1, key, 32, MAC)
            and label_hash(b"cookie--", public_key, key) and mac_key(g.reply_key, key, 32, 32)
            and g.mac2 != NULL and g.cookie[0] != NULL and g.cookie[1] != NULL and g.salt != NULL)


cdef gate *gate_new(const uint8_t *local_public_key) noexcept nogil:
    cdef gate *g = <gate *>calloc(1, sizeof(gate))
    cdef EVP_MAC *mac
    if g == NULL:
        return NULL
    mac = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL)
    g.mac1 = mac_new(mac)
    g.mac2 = mac_new(mac)
    g.reply_key = mac_new(mac)
    g.cookie[0] = mac_new(mac)
    g.cookie[1] = mac_new(mac)
    g.salt = mac_new(mac)
    EVP_MAC_free(mac)  # the contexts hold their own references
    if not gate_key(g, local_public_key):
        gate_free(g)
        return NULL
    return g


cdef void gate_free(gate *g) noexcept nogil:
    if g != NULL:
        EVP_MAC_CTX_free(g.mac1)
        EVP_MAC_CTX_free(g.mac2)
        EVP_MAC_CTX_free(g.reply_key)
        EVP_MAC_CTX_free(g.cookie[0])
        EVP_MAC_CTX_free(g.cookie[1])
        EVP_MAC_CTX_free(g.salt)
        seal_key_free(g.aead)
        free(g)


cdef int gate_set_secret(gate *g, const uint8_t *secret32) noexcept nogil:
    cdef EVP_MAC_CTX *oldest = g.cookie[1]
    if not mac_key(oldest, secret32, GATE_SECRET, MAC) or not mac_key(g.salt, secret32, GATE_SECRET, SALT):
        g.secrets = 0  # without a secret that is whole, load is answered by dropping
        return -1
    g.cookie[1] = g.cookie[0]
    g.cookie[0] = oldest
    g.secrets = min(g.secrets + 1, 2)
    return 0


cdef bint under_load(gate *g, int64_t now_ns) noexcept nogil:
    """Counts one datagram with a good mac1. Load: LOAD_PACKETS others came within LOAD_NS before it."""
    cdef int64_t *oldest = &g.times[g.accepted % LOAD_PACKETS]
    cdef bint load = g.accepted >= LOAD_PACKETS and now_ns - oldest[0] < LOAD_NS
    oldest[0] = now_ns
    g.accepted += 1
    return load


cdef bint has_cookie(gate *g, const uint8_t *address18, const uint8_t *datagram, size_t n) noexcept nogil:
    """Whether mac2 was made with a cookie of ours for this address."""
    cdef uint8_t cookie[32]
    cdef int i
    for i in range(g.secrets):
        if (mac_run(g.cookie[i], address18, GATE_ADDRESS, cookie) and mac_key(g.mac2, cookie, MAC, MAC)
                and mac_matches(g.mac2, datagram, n - MAC, datagram + n - MAC)):
            return True
    return False


cdef bint make_reply(gate *g, const uint8_t *address18, const uint8_t *datagram, size_t n,
                     uint8_t *reply) noexcept nogil:
    cdef uint8_t digest[32]
    cdef uint8_t cookie[32]
    g.replies += 1
    if not g.secrets or not mac_run(g.salt, <const uint8_t *>&g.replies, sizeof(g.replies), digest):
        return False
    reply[0] = COOKIE_REPLY
    memset(reply + 1, 0, 3)
    memcpy(reply + 4, datagram + 4, 4)
    memcpy(reply + 8, digest, SALT)
    if not mac_run(g.reply_key, reply + 8, SALT, digest) or not mac_run(g.cookie[0], address18, GATE_ADDRESS, cookie):
        return False
    memcpy(reply + 32, cookie, MAC)
    # The AEAD's associated data is mac1, which happens to be as long as a datagram's header.
    return (EVP_CipherInit_ex(g.aead.ctx, NULL, NULL, digest, NULL, True)
            and seal_in_place(g.aead, 0, datagram + n - 2 * MAC, reply + 32, MAC) == 0)


cdef bint is_ipv4(const uint8_t *address18) noexcept nogil:
    cdef uint8_t mapped[12]
    memset(mapped, 0, 10)
    mapped[10] = mapped[11] = 0xFF
    return memcmp(address18, mapped, 12) == 0


cdef source *find_source(gate *g, int64_t now_ns, const uint8_t *address18) noexcept nogil:
    """The source's entry, perhaps a fresh one; NULL if every place that it could have is another's in use.

    An entry whose bucket is full again says nothing and may be replaced; one in use never is, or a sender
    with many addresses could refill its own buckets. Places follow from the secret, so that nobody can aim at
    another's.
    """
    cdef uint8_t prefix[16]
    cdef uint8_t place[32]
    cdef source *ways
    cdef source *idle = NULL
    cdef int i
    memset(prefix, 0, sizeof(prefix))
    memcpy(prefix, address18, 16 if is_ipv4(address18) else 8)
    if not mac_run(g.cookie[0], prefix, SOURCE_PREFIX, place):
        return NULL
    ways = g.sources[place[0] % SOURCE_SETS]
    for i in range(SOURCE_WAYS):
        if memcmp(ways[i].prefix, prefix, SOURCE_PREFIX) == 0:
            return &ways[i]
        if ways[i].full_at <= now_ns:
            idle = &ways[i]
    if idle != NULL:
        memcpy(idle.prefix, prefix, SOURCE_PREFIX)
        idle.full_at = now_ns
    return idle


cdef bint spend(gate *g, int64_t now_ns, const uint8_t *address18) noexcept nogil:
    """Takes one token of the source's bucket; False when there is none."""
    cdef source *s = find_source(g, now_ns, address18)
    if s == NULL or s.full_at - now_ns > (SOURCE_BURST - 1) * SOURCE_INTERVAL_NS:
        return False
    s.full_at = max(s.full_at, now_ns) + SOURCE_INTERVAL_NS
    return True


cdef int gate_check(gate *g, int64_t now_ns, const uint8_t *address18, const uint8_t *datagram, size_t n,
                    uint8_t *reply, size_t *reply_len) noexcept nogil:
    reply_len[0] = 0
    if n < GATE_REPLY:
        return GATE_SHORT
    if not mac_matches(g.mac1, datagram, n - 2 * MAC, datagram + n - 2 * MAC):
        return GATE_BAD_MAC1
    if not under_load(g, now_ns):
        return GATE_PASS
    if has_cookie(g, address18, datagram, n):
        return GATE_PASS if spend(g, now_ns, address18) else GATE_DROP
    if not make_reply(g, address18, datagram, n, reply):
        return GATE_DROP
    reply_len[0] = GATE_REPLY
    return GATE_COOKIE


# ---- Python: set-up, tests, `relay bench` ----------------------------------------------------

class AuthenticationError(ValueError):
    """The datagram was not sealed with this key, counter and header, or was changed on its way."""


cdef class SealKey:
    cdef seal_key *k

    def __cinit__(self, int cipher, const uint8_t[::1] key not None, bint sealing):
        if key.shape[0] != SEAL_KEY:
            raise ValueError(f"a key has {SEAL_KEY} bytes, not {key.shape[0]}")
        self.k = seal_key_new(cipher, &key[0], sealing)
        if self.k == NULL:
            raise ValueError(f"no such cipher: {cipher}")

    def __dealloc__(self):
        seal_key_free(self.k)

    def seal(self, uint64_t counter, const uint8_t[::1] header not None, bytes plaintext not None):
        cdef bytearray sealed = bytearray(plaintext) + bytearray(SEAL_TAG)
        self._require(True, header)
        if seal_in_place(self.k, counter, &header[0], sealed, len(plaintext)) < 0:
            raise RuntimeError("OpenSSL refused to seal")
        return bytes(sealed)

    def open(self, uint64_t counter, const uint8_t[::1] header not None, bytes sealed not None):
        cdef bytearray plaintext = bytearray(sealed)
        cdef int n
        self._require(False, header)
        n = seal_open(self.k, counter, &header[0], plaintext, len(plaintext), plaintext)
        if n < 0:
            raise AuthenticationError("not authentic")
        return bytes(plaintext[:n])

    def run(self, uint32_t packets, uint32_t size):
        cdef uint8_t buffer[2048]
        cdef uint8_t header[16]
        cdef uint32_t i
        cdef int failed = 0
        if size > sizeof(buffer) - SEAL_TAG:
            raise ValueError(f"size is at most {sizeof(buffer) - SEAL_TAG} bytes, not {size}")
        memset(buffer, 0, sizeof(buffer))
        memset(header, 0, sizeof(header))
        with nogil:
            for i in range(packets):
                if self.k.sealing:
                    failed |= seal_in_place(self.k, i, header, buffer, size)
                else:
                    seal_open(self.k, i, header, buffer, size + SEAL_TAG, buffer)
        if failed:
            raise RuntimeError("OpenSSL refused to seal")

    cdef int _require(self, bint sealing, const uint8_t[::1] header) except -1:
        if bool(self.k.sealing) != sealing:
            raise TypeError("a key either seals or opens")
        if header.shape[0] != SEAL_HEADER:
            raise ValueError(f"a header has {SEAL_HEADER} bytes, not {header.shape[0]}")
        return 0


cdef class ReplayWindow:
    cdef replay_window w

    def __cinit__(self):
        replay_init(&self.w)

    def check(self, uint64_t counter):
        return replay_check(&self.w, counter)

    def commit(self, uint64_t counter):
        replay_commit(&self.w, counter)


cdef class Gate:
    cdef gate *g

    PASS = GATE_PASS
    BAD_MAC1 = GATE_BAD_MAC1
    COOKIE = GATE_COOKIE
    DROP = GATE_DROP
    SHORT = GATE_SHORT

    def __cinit__(self, const uint8_t[::1] public_key not None):
        if public_key.shape[0] != 32:
            raise ValueError(f"a public key has 32 bytes, not {public_key.shape[0]}")
        self.g = gate_new(&public_key[0])
        if self.g == NULL:
            raise RuntimeError("OpenSSL has no BLAKE2SMAC or no ChaCha20-Poly1305")

    def __dealloc__(self):
        gate_free(self.g)

    def set_secret(self, const uint8_t[::1] secret not None):
        if secret.shape[0] != GATE_SECRET:
            raise ValueError(f"a secret has {GATE_SECRET} bytes, not {secret.shape[0]}")
        if gate_set_secret(self.g, &secret[0]) < 0:
            raise RuntimeError("OpenSSL refused the secret")

    def check(self, int64_t now_ns, const uint8_t[::1] address not None, bytes datagram not None):
        cdef uint8_t reply[64]
        cdef size_t reply_len
        cdef int verdict
        if address.shape[0] != GATE_ADDRESS:
            raise ValueError(f"an address has {GATE_ADDRESS} bytes, not {address.shape[0]}")
        verdict = gate_check(self.g, now_ns, &address[0], datagram, len(datagram), reply, &reply_len)
        return verdict, (<const char *>reply)[:reply_len]
