/* The parts of recording that cost most, in C: what `custody.native` offers where this could be built.

   Owns nothing: each function has a twin in Python that gives the same bytes, decides where this one gives
   up, and serves where there is no compiler (tests/test_native.py holds them together). Nothing here gives up
   the GIL or calls Python code while it reads a value, so none can change meanwhile.

   A function is offered only where the processor has instructions for it: elsewhere the libraries that the
   twins use are faster than plain C. */

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#ifdef Py_GIL_DISABLED
#error "without a GIL values can change while they are read"
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define SHA_CODE __attribute__((target("sha,sse4.1,ssse3")))
#define CRC_CODE __attribute__((target("sse4.2")))
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <arm_neon.h>
#include <sys/auxv.h>
#define SHA_CODE __attribute__((target("+crypto")))
#define CRC_CODE __attribute__((target("+crc")))
#else
#define NO_INSTRUCTIONS
#endif

/* -- SHA-256 (FIPS 180-4) ------------------------------------------------------------------------------- */

#define BLOCK_BYTES 64
#define DIGEST_BYTES 32

static const uint32_t FIRST_STATE[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

#ifndef NO_INSTRUCTIONS
static const uint32_t ROUND_CONSTANTS[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
#endif

#if defined(__x86_64__)

static int has_sha(void)
{
    unsigned a, b, c, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b7, &c7, &d7) && (b7 & (1u << 29));
}

SHA_CODE static void hash_blocks(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    /* The instructions want the eight words as ABEF and CDGH, highest first. */
    __m128i dcba = _mm_loadu_si128((const __m128i *)state);
    __m128i hgfe = _mm_loadu_si128((const __m128i *)(state + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; blocks > 0; blocks--, data += BLOCK_BYTES) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i words[4];
#pragma GCC unroll 16
        for (int group = 0; group < 16; group++) {
            __m128i now;
            if (group < 4) {
                now = _mm_loadu_si128((const __m128i *)(data + 16 * group));
                now = _mm_shuffle_epi8(now, big_endian);
            } else {
                __m128i last = words[(group + 3) & 3];
                now = _mm_sha256msg1_epu32(words[group & 3], words[(group + 1) & 3]);
                now = _mm_add_epi32(now, _mm_alignr_epi8(last, words[(group + 2) & 3], 4));
                now = _mm_sha256msg2_epu32(now, last);
            }
            words[group & 3] = now;
            now = _mm_add_epi32(now, _mm_load_si128((const __m128i *)(ROUND_CONSTANTS + 4 * group)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, now);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(now, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

#elif !defined(NO_INSTRUCTIONS)

static int has_sha(void) { return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0; }

SHA_CODE static void hash_blocks(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
    for (; blocks > 0; blocks--, data += BLOCK_BYTES) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t words[4];
#pragma GCC unroll 16
        for (int group = 0; group < 16; group++) {
            uint32x4_t now;
            if (group < 4) {
                now = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * group)));
            } else {
                now = vsha256su0q_u32(words[group & 3], words[(group + 1) & 3]);
                now = vsha256su1q_u32(now, words[(group + 2) & 3], words[(group + 3) & 3]);
            }
            words[group & 3] = now;
            now = vaddq_u32(now, vld1q_u32(ROUND_CONSTANTS + 4 * group));
            const uint32x4_t abcd_now = abcd;
            abcd = vsha256hq_u32(abcd, efgh, now);
            efgh = vsha256h2q_u32(efgh, abcd_now, now);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

#else

static int has_sha(void) { return 0; }

static void hash_blocks(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    (void)state, (void)data, (void)blocks;
}

#endif

static void store_big(uint8_t *at, uint64_t number, int count)
{
    for (int place = count - 1; place >= 0; place--, number >>= 8)
        at[place] = (uint8_t)number;
}

typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t rest[BLOCK_BYTES];
} Hash;

static void hash_more(Hash *hash, const uint8_t *data, size_t count)
{
    size_t held = hash->bytes % BLOCK_BYTES;
    hash->bytes += count;
    if (held > 0) {
        size_t taken = BLOCK_BYTES - held < count ? BLOCK_BYTES - held : count;
        memcpy(hash->rest + held, data, taken);
        data += taken, count -= taken;
        if (held + taken < BLOCK_BYTES)
            return;
        hash_blocks(hash->state, hash->rest, 1);
    }
    hash_blocks(hash->state, data, count / BLOCK_BYTES);
    memcpy(hash->rest, data + count / BLOCK_BYTES * BLOCK_BYTES, count % BLOCK_BYTES);
}

static void hash_end(Hash *hash, uint8_t digest[DIGEST_BYTES])
{
    size_t held = hash->bytes % BLOCK_BYTES;
    uint8_t last[2 * BLOCK_BYTES] = {0};
    size_t blocks = held + 9 <= BLOCK_BYTES ? 1 : 2;
    memcpy(last, hash->rest, held);
    last[held] = 0x80;
    store_big(last + blocks * BLOCK_BYTES - 8, hash->bytes * 8, 8);
    hash_blocks(hash->state, last, blocks);
    for (int word = 0; word < 8; word++)
        store_big(digest + 4 * word, hash->state[word], 4);
}

static void hash_begin(Hash *hash)
{
    memcpy(hash->state, FIRST_STATE, sizeof FIRST_STATE);
    hash->bytes = 0;
}

/* sha256(*parts) -> bytes */
static PyObject *sha256(PyObject *module, PyObject *const *parts, Py_ssize_t count)
{
    Hash hash;
    hash_begin(&hash);
    for (Py_ssize_t part = 0; part < count; part++) {
        if (!PyBytes_Check(parts[part]))
            return PyErr_Format(PyExc_TypeError, "sha256 takes bytes");
        hash_more(&hash, (const uint8_t *)PyBytes_AS_STRING(parts[part]), (size_t)PyBytes_GET_SIZE(parts[part]));
    }
    PyObject *digest = PyBytes_FromStringAndSize(NULL, DIGEST_BYTES);
    if (digest != NULL)
        hash_end(&hash, (uint8_t *)PyBytes_AS_STRING(digest));
    return digest;
}

/* -- the tree (RFC 6962): see journal/tree.py -------------------------------------------------------------- */

/* grow(hashes, size, leaf): the frontier of a tree of `size` leaves gets one more */
static PyObject *grow(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (count != 3 || !PyList_CheckExact(given[0]) || !PyLong_Check(given[1]) || !PyBytes_Check(given[2]))
        return PyErr_Format(PyExc_TypeError, "grow takes a list, an integer and bytes");
    PyObject *hashes = given[0];
    uint64_t size = PyLong_AsUnsignedLongLong(given[1]);
    if (size == (uint64_t)-1 && PyErr_Occurred())
        return NULL;
    Hash hash;
    uint8_t node[DIGEST_BYTES];
    hash_begin(&hash);
    hash_more(&hash, (const uint8_t *)"\x00", 1);
    hash_more(&hash, (const uint8_t *)PyBytes_AS_STRING(given[2]), (size_t)PyBytes_GET_SIZE(given[2]));
    hash_end(&hash, node);
    Py_ssize_t kept = PyList_GET_SIZE(hashes);
    for (; size & 1; size >>= 1) {
        PyObject *left = kept > 0 ? PyList_GET_ITEM(hashes, kept - 1) : NULL;
        if (left == NULL || !PyBytes_Check(left))
            return PyErr_Format(PyExc_ValueError, "the frontier is not that of a tree of this size");
        hash_begin(&hash);
        hash_more(&hash, (const uint8_t *)"\x01", 1);
        hash_more(&hash, (const uint8_t *)PyBytes_AS_STRING(left), (size_t)PyBytes_GET_SIZE(left));
        hash_more(&hash, node, DIGEST_BYTES);
        hash_end(&hash, node);
        kept--;
    }
    PyObject *root = PyBytes_FromStringAndSize((const char *)node, DIGEST_BYTES);
    if (root == NULL)
        return NULL;
    int failed;
    if (kept == PyList_GET_SIZE(hashes)) {
        failed = PyList_Append(hashes, root);
        Py_DECREF(root);
    } else {
        failed = PyList_SetSlice(hashes, kept + 1, PyList_GET_SIZE(hashes), NULL);
        if (failed)
            Py_DECREF(root);
        else
            failed = PyList_SetItem(hashes, kept, root);
    }
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

/* -- CRC32C and frames: see journal/frames.py ------------------------------------------------------------- */

#if defined(__x86_64__)

static int has_crc(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2);
}

#define CRC_8(crc, number) ((uint32_t)_mm_crc32_u64((crc), (number)))
#define CRC_1(crc, number) _mm_crc32_u8((crc), (number))

#elif !defined(NO_INSTRUCTIONS)

static int has_crc(void) { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }

#define CRC_8(crc, number) __crc32cd((crc), (number))
#define CRC_1(crc, number) __crc32cb((crc), (number))

#else

static int has_crc(void) { return 0; }

#define CRC_CODE
#define CRC_8(crc, number) (crc)
#define CRC_1(crc, number) (crc)

#endif

/* CRC32C of more bytes, given that of those before; 0 to begin with. */
CRC_CODE static uint32_t extend(uint32_t crc, const uint8_t *data, size_t count)
{
    crc = ~crc;
    for (; count >= 8; count -= 8, data += 8) {
        uint64_t eight;
        memcpy(&eight, data, 8);
        crc = CRC_8(crc, eight);
    }
    for (; count > 0; count--, data++)
        crc = CRC_1(crc, *data);
    return ~crc;
}

static void store_little(uint8_t *at, uint64_t number, int count)
{
    for (int place = 0; place < count; place++, number >>= 8)
        at[place] = (uint8_t)number;
}

#define FORMAT_VERSION 1
#define HEADER_BYTES 32

static int unsigned_number(PyObject *object, uint64_t most, uint64_t *number)
{
    if (!PyLong_Check(object)) {
        PyErr_Format(PyExc_TypeError, "a frame's numbers are integers");
        return 0;
    }
    *number = PyLong_AsUnsignedLongLong(object);
    if (*number == (uint64_t)-1 && PyErr_Occurred())
        return 0;
    if (*number > most) {
        PyErr_Format(PyExc_OverflowError, "a number does not fit its field in a frame");
        return 0;
    }
    return 1;
}

typedef struct {
    uint64_t seed, sequence, unsynced, kind;
    PyObject *leaf, *payload;
    size_t bytes; /* with the padding */
} Frame;

/* From six arguments: crc_seed, sequence, unsynced, kind, leaf, payload. */
static int read_frame(Frame *frame, PyObject *const *given)
{
    if (!PyBytes_Check(given[4]) || !PyBytes_Check(given[5])) {
        PyErr_Format(PyExc_TypeError, "the leaf and the payload of a frame are bytes");
        return 0;
    }
    frame->leaf = given[4], frame->payload = given[5];
    if (PyBytes_GET_SIZE(frame->leaf) > UINT32_MAX || PyBytes_GET_SIZE(frame->payload) > UINT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "a part does not fit a frame");
        return 0;
    }
    size_t used = HEADER_BYTES + (size_t)PyBytes_GET_SIZE(frame->leaf) + (size_t)PyBytes_GET_SIZE(frame->payload);
    frame->bytes = (used + 7) & ~(size_t)7;
    return unsigned_number(given[0], UINT32_MAX, &frame->seed) &&
           unsigned_number(given[1], UINT64_MAX, &frame->sequence) &&
           unsigned_number(given[2], UINT32_MAX, &frame->unsynced) &&
           unsigned_number(given[3], UINT8_MAX, &frame->kind);
}

static void write_frame(const Frame *frame, uint8_t *at)
{
    uint32_t seed = (uint32_t)frame->seed;
    size_t leaf_bytes = (size_t)PyBytes_GET_SIZE(frame->leaf);
    size_t payload_bytes = (size_t)PyBytes_GET_SIZE(frame->payload);
    uint8_t *payload = at + HEADER_BYTES + leaf_bytes, *end = payload + payload_bytes;
    memcpy(at + HEADER_BYTES, PyBytes_AS_STRING(frame->leaf), leaf_bytes);
    memcpy(payload, PyBytes_AS_STRING(frame->payload), payload_bytes);
    memset(end, 0, (size_t)(at + frame->bytes - end));
    store_little(at + 8, frame->sequence, 8);
    store_little(at + 4, extend(extend(seed, at + 8, 8), payload, payload_bytes), 4);
    store_little(at + 16, leaf_bytes, 4);
    store_little(at + 20, payload_bytes, 4);
    store_little(at + 24, frame->kind, 1);
    store_little(at + 25, FORMAT_VERSION, 1);
    store_little(at + 26, 0, 2);
    store_little(at + 28, frame->unsynced, 4);
    store_little(at, extend(seed, at + 4, HEADER_BYTES - 4 + leaf_bytes), 4);
}

/* encode_frame(crc_seed, sequence, unsynced, kind, leaf, payload) -> bytes */
static PyObject *encode_frame(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    Frame frame;
    if (count != 6)
        return PyErr_Format(PyExc_TypeError, "encode_frame takes four integers and two bytes");
    if (!read_frame(&frame, given))
        return NULL;
    PyObject *encoded = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)frame.bytes);
    if (encoded != NULL)
        write_frame(&frame, (uint8_t *)PyBytes_AS_STRING(encoded));
    return encoded;
}

/* -- putting: see journal/put.py ----------------------------------------------------------------------------- */

#define STACK_FRAME_BYTES_MAX 4096

static PyObject *REAL_FILE, *DESCRIPTOR, *PUT;

/* put_directly_into(type): files of exactly this type have a `_descriptor` */
static PyObject *put_directly_into(PyObject *module, PyObject *type)
{
    Py_INCREF(type);
    Py_XSETREF(REAL_FILE, type);
    Py_RETURN_NONE;
}

/* The whole frame with one pwrite; anything else is left to the file's own `put`. */
static int put_at_once(PyObject *file, const Frame *frame, long long offset)
{
    uint8_t data[STACK_FRAME_BYTES_MAX];
    PyObject *held = PyObject_GetAttr(file, DESCRIPTOR);
    if (held == NULL)
        return 0;
    long descriptor = PyLong_AsLong(held);
    Py_DECREF(held);
    if (descriptor < 0 || descriptor > INT_MAX)
        return 0;
    write_frame(frame, data);
    return pwrite((int)descriptor, data, frame->bytes, offset) == (ssize_t)frame->bytes;
}

/* put_frame(file, offset, crc_seed, sequence, unsynced, kind, leaf, payload): as `file.put` of that frame */
static PyObject *put_frame(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    Frame frame;
    if (count != 8)
        return PyErr_Format(PyExc_TypeError, "put_frame takes a file, an offset and what a frame is made of");
    long long offset = PyLong_AsLongLong(given[1]);
    if ((offset == -1 && PyErr_Occurred()) || !read_frame(&frame, given + 2))
        return NULL;
    if ((PyObject *)Py_TYPE(given[0]) == REAL_FILE && frame.bytes <= STACK_FRAME_BYTES_MAX) {
        if (put_at_once(given[0], &frame, offset))
            Py_RETURN_NONE;
        if (PyErr_Occurred())
            return NULL;
    }
    PyObject *encoded = encode_frame(module, given + 2, 6);
    if (encoded == NULL)
        return NULL;
    PyObject *done = PyObject_CallMethodObjArgs(given[0], PUT, encoded, given[1], NULL);
    Py_DECREF(encoded);
    return done;
}

/* -- known values and keywords ------------------------------------------------------------------------------- */

#include "_filter.h"

/* -- credentials in URLs: `holds_userinfo` in redaction/urls.py ------------------------------------------------- */

#define LONE_BYTES_MIN 8 /* as in the twin, whose characters take a byte or more */

/* What an authority is not made of, beside what is no graphic character: it ends there. */
static const uint8_t ENDS[256] = {
    ['/'] = 1, ['?'] = 1, ['#'] = 1, ['"'] = 1, ['\''] = 1, ['<'] = 1, ['>'] = 1, ['\\'] = 1, ['`'] = 1, [0x7f] = 1,
};

static int ends_authority(uint8_t byte) { return byte <= ' ' || ENDS[byte]; }

/* Whether what stands between `://` and an `@` may be a secret. The search goes by the `@`, which is rare, and back
   from each to the one before: so no byte is looked at twice. */
static int may_hold_userinfo(const char *data, Py_ssize_t count)
{
    const char *end = data + count, *stop = data, *start = NULL, *at = data;
    while ((at = memchr(at, '@', (size_t)(end - at))) != NULL) {
        const char *from = at;
        while (from > stop && !ends_authority((uint8_t)from[-1]))
            from--;
        if (from > stop || stop == data) /* else it goes on behind the `@` before, and begins where that did */
            start = from - data >= 3 && memcmp(from - 3, "://", 3) == 0 ? from : NULL;
        if (start != NULL && at > start &&
            (at - start >= LONE_BYTES_MIN || memchr(start, ':', (size_t)(at - start)) != NULL))
            return 1;
        stop = ++at;
    }
    return 0;
}

/* -- ordinary values: see redaction/redactor.py --------------------------------------------------------------- */

#define FIRST_BYTES 4096       /* most payloads take less, and are encoded on the stack */
#define ELEMENT_BYTES 64       /* as in the twin */
#define DEPTH_MAX 64           /* as in the twin */
#define NAME_CHARACTERS_MAX 64 /* of a name that may be remembered, as in the twin */
#define WORD_CHARACTERS_MAX 128 /* of the name in an assignment: what the twin's expression takes */
#define UNKNOWN_MAX 4096       /* names to be judged at once; more are a mapping made of data */

/* What a walk answers. */
enum { FAILED = -1, GIVEN_UP = 0, ORDINARY = 1 };

typedef struct {
    PyObject *names;   /* set of those known to be no secrets' names */
    PyObject *unknown; /* list of those that must be judged; NULL while there is none */
    int64_t left;
    uint8_t *start; /* of what has been encoded, behind the salt: in `first`, or in `bytes` */
    uint8_t *at;
    uint8_t *end;
    PyObject *bytes; /* NULL while `first` is large enough */
    uint8_t first[FIRST_BYTES];
} Walk;

static PyObject *TEXTS[6]; /* name key Name Key value Value */
enum { LOWER_VALUE = 4, UPPER_VALUE = 5 };

static int make_room(Walk *walk, size_t count)
{
    if ((size_t)(walk->end - walk->at) >= count)
        return ORDINARY;
    size_t used = (size_t)(walk->at - walk->start), wanted = used + count + used / 2;
    if (walk->bytes != NULL) {
        if (_PyBytes_Resize(&walk->bytes, (Py_ssize_t)wanted) < 0)
            return FAILED;
    } else {
        if ((walk->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)wanted)) == NULL)
            return FAILED;
        memcpy(PyBytes_AS_STRING(walk->bytes), walk->first, used);
    }
    walk->start = (uint8_t *)PyBytes_AS_STRING(walk->bytes);
    walk->at = walk->start + used;
    walk->end = walk->start + wanted;
    return ORDINARY;
}

/* The name is known to be ordinary, or is noted as one to be judged. */
static int check_name(Walk *walk, PyObject *name)
{
    int known = PySet_Contains(walk->names, name);
    if (known != 0)
        return known;
    if (PyUnicode_GET_LENGTH(name) > NAME_CHARACTERS_MAX)
        return GIVEN_UP;
    if (walk->unknown == NULL && (walk->unknown = PyList_New(0)) == NULL)
        return FAILED;
    if (PyList_GET_SIZE(walk->unknown) >= UNKNOWN_MAX)
        return GIVEN_UP;
    return PyList_Append(walk->unknown, name) < 0 ? FAILED : ORDINARY;
}

static int readable(PyObject *text)
{
#if PY_VERSION_HEX < 0x030c0000
    return PyUnicode_IS_READY(text);
#else
    return 1;
#endif
}

/* msgpack's head of a value that has a length: the short form below `small`, then 8 (unless 0), 16, 32 bits. */
static int put_head(Walk *walk, size_t length, uint8_t first, size_t small, uint8_t code8, uint8_t code16)
{
    if (make_room(walk, 5) < 0)
        return FAILED;
    if (length < small) {
        *walk->at++ = (uint8_t)(first | length);
        return ORDINARY;
    }
    if (length > UINT32_MAX)
        return GIVEN_UP;
    int count = code8 && length <= UINT8_MAX ? 1 : length <= UINT16_MAX ? 2 : 4;
    *walk->at++ = (uint8_t)(count == 1 ? code8 : count == 2 ? code16 : code16 + 1);
    store_big(walk->at, length, count);
    walk->at += count;
    return ORDINARY;
}

/* Bytes that a character takes in UTF-8; 0 for half of a pair, which UTF-8 cannot hold. */
static int utf8_bytes(Py_UCS4 character)
{
    if (character < 0x80)
        return 1;
    if (character < 0x800)
        return 2;
    if (character < 0x10000)
        return character >= 0xd800 && character <= 0xdfff ? 0 : 3;
    return 4;
}

/* A name's weight is in ELEMENT_BYTES. */
static int put_name(Walk *walk, PyObject *text)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    int kind = PyUnicode_KIND(text), ascii = PyUnicode_IS_ASCII(text), done;
    const void *data = PyUnicode_DATA(text);
    size_t bytes = (size_t)length;
    if (!ascii) {
        bytes = 0;
        for (Py_ssize_t index = 0; index < length; index++) {
            int more = utf8_bytes(PyUnicode_READ(kind, data, index));
            if (more == 0)
                return GIVEN_UP;
            bytes += (size_t)more;
        }
    }
    if ((done = put_head(walk, bytes, 0xa0, 32, 0xd9, 0xda)) != ORDINARY)
        return done;
    if (make_room(walk, bytes) < 0)
        return FAILED;
    if (ascii) {
        memcpy(walk->at, data, bytes);
        walk->at += bytes;
        return ORDINARY;
    }
    for (Py_ssize_t index = 0; index < length; index++) {
        Py_UCS4 character = PyUnicode_READ(kind, data, index);
        int more = utf8_bytes(character);
        if (more == 1) {
            *walk->at++ = (uint8_t)character;
            continue;
        }
        for (int place = more - 1; place > 0; place--, character >>= 6)
            walk->at[place] = (uint8_t)(0x80 | (character & 0x3f));
        walk->at[0] = (uint8_t)((0xf00 >> more) | character);
        walk->at += more;
    }
    return ORDINARY;
}

static int put_text(Walk *walk, PyObject *text)
{
    if (!readable(text) || (walk->left -= PyUnicode_GET_LENGTH(text)) < 0)
        return GIVEN_UP;
    return put_name(walk, text);
}

static int put_number(Walk *walk, uint8_t code, uint64_t number, int count)
{
    *walk->at++ = code;
    store_big(walk->at, number, count);
    walk->at += count;
    return ORDINARY;
}

static int put_integer(Walk *walk, PyObject *integer)
{
    int beyond;
    long long number = PyLong_AsLongLongAndOverflow(integer, &beyond);
    if (make_room(walk, 9) < 0)
        return FAILED;
    if (beyond > 0) {
        unsigned long long large = PyLong_AsUnsignedLongLong(integer);
        if (large == (unsigned long long)-1 && PyErr_Occurred()) {
            PyErr_Clear();
            return GIVEN_UP;
        }
        return put_number(walk, 0xcf, large, 8);
    }
    if (beyond < 0)
        return GIVEN_UP;
    if (number >= -32 && number <= 127) {
        *walk->at++ = (uint8_t)number;
        return ORDINARY;
    }
    if (number >= 0) {
        int size = number <= UINT8_MAX ? 0 : number <= UINT16_MAX ? 1 : number <= UINT32_MAX ? 2 : 3;
        return put_number(walk, (uint8_t)(0xcc + size), (uint64_t)number, 1 << size);
    }
    int size = number >= INT8_MIN ? 0 : number >= INT16_MIN ? 1 : number >= INT32_MIN ? 2 : 3;
    return put_number(walk, (uint8_t)(0xd0 + size), (uint64_t)number, 1 << size);
}

static int put_container(Walk *walk, PyObject *value, int depth);

static int put_value(Walk *walk, PyObject *value, int depth)
{
    if (PyUnicode_CheckExact(value))
        return put_text(walk, value);
    if (value == Py_None || value == Py_True || value == Py_False) {
        if (make_room(walk, 1) < 0)
            return FAILED;
        *walk->at++ = value == Py_None ? 0xc0 : value == Py_True ? 0xc3 : 0xc2;
        return ORDINARY;
    }
    if (PyLong_CheckExact(value))
        return put_integer(walk, value);
    if (PyFloat_CheckExact(value)) {
        double number = PyFloat_AS_DOUBLE(value);
        uint64_t bits;
        memcpy(&bits, &number, 8);
        return make_room(walk, 9) < 0 ? FAILED : put_number(walk, 0xcb, bits, 8);
    }
    if (PyBytes_CheckExact(value)) {
        size_t count = (size_t)PyBytes_GET_SIZE(value);
        int done;
        if ((walk->left -= (int64_t)count) < 0)
            return GIVEN_UP;
        if ((done = put_head(walk, count, 0, 0, 0xc4, 0xc5)) != ORDINARY)
            return done;
        if (make_room(walk, count) < 0)
            return FAILED;
        memcpy(walk->at, PyBytes_AS_STRING(value), count);
        walk->at += count;
        return ORDINARY;
    }
    return put_container(walk, value, depth + 1);
}

/* -- argument lists: `has_secret_argument` in redaction/keys.py, or less ---------------------------------------- */

static int is_letter(Py_UCS4 character)
{
    return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z');
}

static int is_digit(Py_UCS4 character) { return character >= '0' && character <= '9'; }

static Py_UCS4 first_character(PyObject *text)
{
    return PyUnicode_GET_LENGTH(text) > 0 ? PyUnicode_READ_CHAR(text, 0) : 0;
}

static int check_part(Walk *walk, PyObject *text, Py_ssize_t start, Py_ssize_t stop)
{
    if (stop - start > NAME_CHARACTERS_MAX)
        return GIVEN_UP;
    PyObject *name = PyUnicode_Substring(text, start, stop);
    if (name == NULL)
        return FAILED;
    int checked = check_name(walk, name);
    Py_DECREF(name);
    return checked;
}

/* `--name=value` and `NAME=value`: the name must be ordinary. */
static int check_assignment(Walk *walk, PyObject *item)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(item), start = 0;
    int kind = PyUnicode_KIND(item);
    const void *data = PyUnicode_DATA(item);
    while (start < 2 && start < length && PyUnicode_READ(kind, data, start) == '-')
        start++;
    if (start == length)
        return ORDINARY;
    Py_UCS4 character = PyUnicode_READ(kind, data, start);
    if (!is_letter(character) && character != '_')
        return ORDINARY;
    Py_ssize_t stop = start + 1;
    for (; stop < length && stop - start <= WORD_CHARACTERS_MAX; stop++) {
        character = PyUnicode_READ(kind, data, stop);
        if (character == '=')
            return stop + 1 < length ? check_part(walk, item, start, stop) : ORDINARY;
        /* What is beyond ASCII may be a letter: the twin knows. */
        if (!is_letter(character) && !is_digit(character) && character < 0x80 && strchr("_.-", (int)character) == NULL)
            return ORDINARY;
    }
    return ORDINARY;
}

static int is_any(PyObject *text, const char *const *spellings)
{
    for (; *spellings != NULL; spellings++)
        if (PyUnicode_CompareWithASCIIString(text, *spellings) == 0)
            return 1;
    return 0;
}

static const char *const HEADER_OPTIONS[] = {"-H", "--header", "--proxy-header", NULL};
static const char *const AUTHENTICATING[] = {"authorization", "proxy-authorization", "cookie", "set-cookie", NULL};
#define AUTHENTICATING_CHARACTERS_MAX 19
#define HEADER_CHARACTERS_MAX 64

/* `Authorization: value`, and behind `-H` any header: not here. */
static int check_header(Walk *walk, PyObject *item, PyObject *before)
{
    char lower[AUTHENTICATING_CHARACTERS_MAX + 1];
    Py_ssize_t length = PyUnicode_GET_LENGTH(item), stop = 0;
    int kind = PyUnicode_KIND(item);
    const void *data = PyUnicode_DATA(item);
    for (; stop < length && stop <= HEADER_CHARACTERS_MAX; stop++) {
        Py_UCS4 character = PyUnicode_READ(kind, data, stop);
        if (character == ':')
            break;
        if (!is_letter(character) && (stop == 0 || (!is_digit(character) && character != '-')))
            return ORDINARY;
        if (stop < AUTHENTICATING_CHARACTERS_MAX)
            lower[stop] = (char)(is_letter(character) ? character | 0x20 : character);
    }
    if (stop == 0 || stop == length || stop > HEADER_CHARACTERS_MAX)
        return ORDINARY;
    if (stop <= AUTHENTICATING_CHARACTERS_MAX) {
        lower[stop] = 0;
        for (const char *const *name = AUTHENTICATING; *name != NULL; name++)
            if (strcmp(lower, *name) == 0)
                return GIVEN_UP;
    }
    if (before != NULL && is_any(before, HEADER_OPTIONS))
        return check_part(walk, item, 0, stop);
    return ORDINARY;
}

/* Whether the character can be where it would end a name. */
static int may_hold(PyObject *text, Py_ssize_t length, int character)
{
    size_t near = (size_t)(length < WORD_CHARACTERS_MAX + 3 ? length : WORD_CHARACTERS_MAX + 3);
    return !PyUnicode_IS_ASCII(text) || memchr(PyUnicode_DATA(text), character, near) != NULL;
}

/* `before` is the text in front of this one, NULL when there is none. */
static int check_argument(Walk *walk, PyObject *item, PyObject *before)
{
    int checked;
    if (!readable(item))
        return GIVEN_UP;
    Py_ssize_t length = PyUnicode_GET_LENGTH(item);
    if (length == 0)
        return ORDINARY;
    if (may_hold(item, length, '=') && (checked = check_assignment(walk, item)) != ORDINARY)
        return checked;
    if (may_hold(item, length, ':') && (checked = check_header(walk, item, before)) != ORDINARY)
        return checked;
    if (before == NULL || first_character(before) != '-' || first_character(item) == '-')
        return ORDINARY;
    if (PyUnicode_FindChar(before, '=', 0, PyUnicode_GET_LENGTH(before), 1) >= 0)
        return ORDINARY;
    return check_name(walk, before);
}

/* -- containers --------------------------------------------------------------------------------------------- */

static int put_sequence(Walk *walk, PyObject *value, int depth)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(value);
    PyObject **items = PySequence_Fast_ITEMS(value);
    PyObject *before = NULL;
    int done;
    if ((walk->left -= ELEMENT_BYTES * (int64_t)count) < 0)
        return GIVEN_UP;
    if ((done = put_head(walk, (size_t)count, 0x90, 16, 0, 0xdc)) != ORDINARY)
        return done;
    for (Py_ssize_t index = 0; index < count; index++) {
        PyObject *item = items[index];
        int text = PyUnicode_CheckExact(item);
        if (text && (done = check_argument(walk, item, before)) != ORDINARY)
            return done;
        if ((done = put_value(walk, item, depth)) != ORDINARY)
            return done;
        before = text ? item : NULL;
    }
    /* A header's name and value, alone or in a list of such. */
    if (count == 2 && PyUnicode_CheckExact(items[0]) && PyUnicode_CheckExact(items[1]))
        return check_name(walk, items[0]);
    return ORDINARY;
}

/* `{"name": "API_KEY", "value": …}`: what stands in the place of the name must be ordinary. */
static int check_pair(Walk *walk, PyObject *value)
{
    for (int index = 0; index < LOWER_VALUE; index++) {
        PyObject *name = PyDict_GetItemWithError(value, TEXTS[index]);
        if (name == NULL && PyErr_Occurred())
            return FAILED;
        if (name != NULL && PyUnicode_CheckExact(name)) {
            int checked = check_name(walk, name);
            if (checked != ORDINARY)
                return checked;
        }
    }
    return ORDINARY;
}

static int is_value(PyObject *name)
{
    return PyUnicode_GET_LENGTH(name) == 5 && (first_character(name) | 0x20) == 'v' &&
           (PyUnicode_Compare(name, TEXTS[LOWER_VALUE]) == 0 || PyUnicode_Compare(name, TEXTS[UPPER_VALUE]) == 0);
}

static int put_mapping(Walk *walk, PyObject *value, int depth)
{
    Py_ssize_t count = PyDict_GET_SIZE(value), place = 0;
    PyObject *name, *item;
    int paired = 0, done;
    if ((walk->left -= ELEMENT_BYTES * (int64_t)count) < 0)
        return GIVEN_UP;
    if ((done = put_head(walk, (size_t)count, 0x80, 16, 0, 0xde)) != ORDINARY)
        return done;
    while (PyDict_Next(value, &place, &name, &item)) {
        if (!PyUnicode_CheckExact(name) || !readable(name))
            return GIVEN_UP;
        if ((done = check_name(walk, name)) != ORDINARY || (done = put_name(walk, name)) != ORDINARY)
            return done;
        paired = paired || is_value(name);
        if ((done = put_value(walk, item, depth)) != ORDINARY)
            return done;
    }
    return paired ? check_pair(walk, value) : ORDINARY;
}

static int put_container(Walk *walk, PyObject *value, int depth)
{
    if (depth >= DEPTH_MAX)
        return GIVEN_UP;
    if (PyDict_CheckExact(value))
        return put_mapping(walk, value, depth);
    if (PyList_CheckExact(value) || PyTuple_CheckExact(value))
        return put_sequence(walk, value, depth);
    return GIVEN_UP;
}

/* encode_ordinary(value, names, filter, left, salt) -> bytes, or a list of names to be judged first, or None; or a
   tuple of the bytes alone, when there are keywords in them that must be looked at */
static PyObject *encode_ordinary(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (count != 5 || !PySet_CheckExact(given[1]) || !PyLong_Check(given[3]) || !PyBytes_Check(given[4]))
        return PyErr_Format(PyExc_TypeError, "encode_ordinary takes a value, a set, a filter, an integer and bytes");
    const Filter *filter = filter_of(given[2]);
    if (filter == NULL)
        return NULL;
    size_t salt_bytes = (size_t)PyBytes_GET_SIZE(given[4]);
    Walk walk;
    walk.names = given[1];
    walk.unknown = walk.bytes = NULL;
    walk.at = walk.start = walk.first;
    walk.end = walk.first + FIRST_BYTES;
    walk.left = PyLong_AsLongLong(given[3]);
    if ((walk.left == -1 && PyErr_Occurred()) || make_room(&walk, salt_bytes) < 0)
        return NULL;
    memcpy(walk.at, PyBytes_AS_STRING(given[4]), salt_bytes);
    walk.at += salt_bytes;
    int done = put_container(&walk, given[0], 0);
    if (done == ORDINARY && walk.unknown != NULL) {
        Py_XDECREF(walk.bytes);
        return walk.unknown;
    }
    Py_XDECREF(walk.unknown);
    Py_ssize_t used = walk.at - walk.start;
    int level = done == ORDINARY ? level_of(walk.start + salt_bytes, (size_t)used - salt_bytes, filter) : 0;
    if (level == 2)
        done = GIVEN_UP;
    if (done == ORDINARY && may_hold_userinfo((const char *)walk.start + salt_bytes, used - (Py_ssize_t)salt_bytes))
        done = GIVEN_UP;
    if (done == ORDINARY) {
        if (walk.bytes == NULL)
            walk.bytes = PyBytes_FromStringAndSize((const char *)walk.start, used);
        else
            _PyBytes_Resize(&walk.bytes, used); /* without memory: NULL and an exception */
        return level == 0 || walk.bytes == NULL ? walk.bytes : Py_BuildValue("(N)", walk.bytes);
    }
    Py_XDECREF(walk.bytes);
    if (done == FAILED)
        return NULL;
    Py_RETURN_NONE;
}

/* -- the module --------------------------------------------------------------------------------------------- */

#define INTERFACE 4 /* as in native.py: another means that one of the two is of an older build */

#define FAST(name) (PyCFunction)(void (*)(void))name, METH_FASTCALL

static PyMethodDef always[] = {
    {"encode_ordinary", FAST(encode_ordinary), NULL},
    {"find_level", FAST(find_level), NULL},
    {"find_needles", FAST(find_needles), NULL},
    {"make_filter", make_filter, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef with_sha[] = {
    {"grow", FAST(grow), NULL},
    {"sha256", FAST(sha256), NULL},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef with_crc[] = {
    {"encode_frame", FAST(encode_frame), NULL},
    {"put_directly_into", put_directly_into, METH_O, NULL},
    {"put_frame", FAST(put_frame), NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "custody._native", NULL, -1, always, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    static const char *const texts[6] = {"name", "key", "Name", "Key", "value", "Value"};
    for (int index = 0; index < 6; index++)
        if (TEXTS[index] == NULL && (TEXTS[index] = PyUnicode_InternFromString(texts[index])) == NULL)
            return NULL;
    if ((DESCRIPTOR == NULL && (DESCRIPTOR = PyUnicode_InternFromString("_descriptor")) == NULL) ||
        (PUT == NULL && (PUT = PyUnicode_InternFromString("put")) == NULL))
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0 ||
        (has_sha() && PyModule_AddFunctions(module, with_sha) < 0) ||
        (has_crc() && PyModule_AddFunctions(module, with_crc) < 0)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
