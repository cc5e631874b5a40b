# cython: boundscheck=False, wraparound=False, cdivision=True
# Bounds: nothing is indexed here; lengths are checked before OpenSSL sees a pointer.
"""The primitives of handshakes and of signed records, on OpenSSL's EVP interface: pure functions on bytes.

They are called per handshake, not per packet, and so keep no context: `seal` has the contexts of packets.
A refusal leaves nothing in OpenSSL's error queue, where Python's ssl module would find it.
"""
from libc.stdint cimport uint8_t

from relay_ext.seal import AuthenticationError


cdef extern from "<openssl/crypto.h>" nogil:
    int OPENSSL_VERSION
    const char *OpenSSL_version(int type)

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_PKEY_CTX:
        pass
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MD_CTX:
        pass
    int EVP_PKEY_X25519, EVP_PKEY_ED25519, EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG
    EVP_PKEY *EVP_PKEY_new_raw_private_key(int type, void *engine, const uint8_t *key, size_t n)
    EVP_PKEY *EVP_PKEY_new_raw_public_key(int type, void *engine, const uint8_t *key, size_t n)
    int EVP_PKEY_get_raw_public_key(const EVP_PKEY *key, uint8_t *out, size_t *n)
    void EVP_PKEY_free(EVP_PKEY *key)
    EVP_PKEY_CTX *EVP_PKEY_CTX_new(EVP_PKEY *key, void *engine)
    void EVP_PKEY_CTX_free(EVP_PKEY_CTX *ctx)
    int EVP_PKEY_derive_init(EVP_PKEY_CTX *ctx)
    int EVP_PKEY_derive_set_peer(EVP_PKEY_CTX *ctx, EVP_PKEY *peer)
    int EVP_PKEY_derive(EVP_PKEY_CTX *ctx, uint8_t *out, size_t *n)
    EVP_MD_CTX *EVP_MD_CTX_new()
    void EVP_MD_CTX_free(EVP_MD_CTX *ctx)
    int EVP_DigestSignInit(EVP_MD_CTX *ctx, void *pctx, void *md, void *engine, EVP_PKEY *key)
    int EVP_DigestSign(EVP_MD_CTX *ctx, uint8_t *out, size_t *out_len, const uint8_t *data, size_t n)
    int EVP_DigestVerifyInit(EVP_MD_CTX *ctx, void *pctx, void *md, void *engine, EVP_PKEY *key)
    int EVP_DigestVerify(EVP_MD_CTX *ctx, const uint8_t *signature, size_t signature_len, const uint8_t *data,
                         size_t n)
    const EVP_CIPHER *EVP_chacha20_poly1305()
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *ctx, int op, int arg, void *ptr)
    int EVP_CipherInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, void *engine, const uint8_t *key,
                          const uint8_t *iv, int sealing)
    int EVP_CipherUpdate(EVP_CIPHER_CTX *ctx, uint8_t *dst, int *dst_len, const uint8_t *src, int n)
    int EVP_CipherFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *dst, int *dst_len)

cdef enum:
    KEY = 32         # bytes of a key and of a shared secret
    SIGNATURE = 64
    NONCE = 12
    TAG = 16
    MESSAGE_MAX = 1 << 20  # bytes; what is sealed here is a datagram at most


cdef int require(const char *what, bytes value, Py_ssize_t size) except -1:
    if len(value) != size:
        raise ValueError(f"{what.decode()} has {size} bytes, not {len(value)}")
    return 0


cdef bytes public_of(int kind, bytes private):
    cdef uint8_t public[32]
    cdef size_t n = KEY
    cdef EVP_PKEY *key
    cdef bint done
    require(b"a private key", private, KEY)
    key = EVP_PKEY_new_raw_private_key(kind, NULL, private, KEY)
    done = key != NULL and EVP_PKEY_get_raw_public_key(key, public, &n) == 1
    EVP_PKEY_free(key)
    if not done:
        ERR_clear_error()
        raise RuntimeError("OpenSSL cannot make a key")
    return (<const char *>public)[:KEY]


# ---- X25519 (RFC 7748) -----------------------------------------------------------------------

def openssl_version():
    """Name and version of the library that is loaded, which need not be the one of the build."""
    return OpenSSL_version(OPENSSL_VERSION).decode()


def x25519_public_key(bytes private not None):
    return public_of(EVP_PKEY_X25519, private)


cdef bint derive(EVP_PKEY *own, EVP_PKEY *peer, uint8_t *shared) noexcept nogil:
    cdef size_t n = KEY
    cdef EVP_PKEY_CTX *ctx
    cdef bint done
    if own == NULL or peer == NULL:
        return False
    ctx = EVP_PKEY_CTX_new(own, NULL)
    done = (ctx != NULL and EVP_PKEY_derive_init(ctx) == 1 and EVP_PKEY_derive_set_peer(ctx, peer) == 1
            and EVP_PKEY_derive(ctx, shared, &n) == 1)
    EVP_PKEY_CTX_free(ctx)
    return done


def x25519(bytes private not None, bytes public not None):
    cdef uint8_t shared[32]
    cdef EVP_PKEY *own
    cdef EVP_PKEY *peer
    cdef bint done
    require(b"a private key", private, KEY)
    require(b"a public key", public, KEY)
    own = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private, KEY)
    peer = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, public, KEY)
    done = derive(own, peer, shared)
    EVP_PKEY_free(own)
    EVP_PKEY_free(peer)
    if not done:  # OpenSSL refuses a result of zeros; nothing else about 32 bytes can be wrong
        ERR_clear_error()
        raise ValueError("a public key of low order")
    return (<const char *>shared)[:KEY]


# ---- Ed25519 (RFC 8032) ----------------------------------------------------------------------

def ed25519_public_key(bytes private not None):
    return public_of(EVP_PKEY_ED25519, private)


def ed25519_sign(bytes private not None, bytes message not None):
    cdef uint8_t signature[64]
    cdef size_t n = SIGNATURE
    cdef EVP_PKEY *key
    cdef EVP_MD_CTX *ctx
    cdef bint done
    require(b"a private key", private, KEY)
    key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, private, KEY)
    ctx = EVP_MD_CTX_new()
    done = (key != NULL and ctx != NULL and EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) == 1
            and EVP_DigestSign(ctx, signature, &n, message, len(message)) == 1)
    EVP_MD_CTX_free(ctx)
    EVP_PKEY_free(key)
    if not done:
        ERR_clear_error()
        raise RuntimeError("OpenSSL cannot sign")
    return (<const char *>signature)[:SIGNATURE]


def ed25519_verify(bytes public not None, bytes message not None, bytes signature not None):
    cdef EVP_PKEY *key
    cdef EVP_MD_CTX *ctx
    cdef bint valid
    require(b"a public key", public, KEY)
    require(b"a signature", signature, SIGNATURE)
    key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public, KEY)
    ctx = EVP_MD_CTX_new()
    valid = (key != NULL and ctx != NULL and EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1
             and EVP_DigestVerify(ctx, signature, SIGNATURE, message, len(message)) == 1)
    EVP_MD_CTX_free(ctx)
    EVP_PKEY_free(key)
    if not valid:
        ERR_clear_error()
        raise AuthenticationError("not signed by this key")


# ---- ChaCha20-Poly1305 (RFC 8439) ------------------------------------------------------------

cdef bint crypt(const uint8_t *key, const uint8_t *nonce, bytes associated, const uint8_t *src, int n,
                uint8_t *dst, uint8_t *tag, bint sealing):
    """Seals and writes the tag, or opens and checks it."""
    cdef uint8_t none[16]
    cdef int taken = 0
    cdef EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new()
    cdef bint done = (
        ctx != NULL and EVP_CipherInit_ex(ctx, EVP_chacha20_poly1305(), NULL, key, nonce, sealing) == 1
        and (sealing or EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG, tag) == 1)
        and EVP_CipherUpdate(ctx, NULL, &taken, associated, <int>len(associated)) == 1
        and EVP_CipherUpdate(ctx, dst, &taken, src, n) == 1
        and EVP_CipherFinal_ex(ctx, none, &taken) == 1
        and (not sealing or EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, tag) == 1))
    EVP_CIPHER_CTX_free(ctx)
    if not done:
        ERR_clear_error()
    return done


cdef int require_message(bytes key, bytes nonce, bytes associated, bytes message) except -1:
    require(b"a key", key, KEY)
    require(b"a nonce", nonce, NONCE)
    if len(associated) > MESSAGE_MAX or len(message) > MESSAGE_MAX:
        raise ValueError(f"a message has at most {MESSAGE_MAX} bytes")
    return 0


def chacha20_poly1305_seal(bytes key not None, bytes nonce not None, bytes associated not None,
                           bytes plaintext not None):
    cdef int n = <int>len(plaintext)
    cdef bytearray sealed
    cdef uint8_t *out
    require_message(key, nonce, associated, plaintext)
    sealed = bytearray(n + TAG)
    out = sealed
    if not crypt(key, nonce, associated, plaintext, n, out, out + n, True):
        raise RuntimeError("OpenSSL cannot seal")
    return bytes(sealed)


def chacha20_poly1305_open(bytes key not None, bytes nonce not None, bytes associated not None,
                           bytes sealed not None):
    cdef int n = <int>len(sealed) - TAG
    cdef bytearray copy
    cdef uint8_t *out
    require_message(key, nonce, associated, sealed)
    copy = bytearray(sealed)
    out = copy
    if n < 0 or not crypt(key, nonce, associated, out, n, out, out + n, False):
        raise AuthenticationError("not authentic")
    return bytes(copy[:n])
