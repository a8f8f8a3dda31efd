/* Finding many needles at once, in C: `custody.redaction.needles` says what is found and has the twin.

   Part of `_native.c`, which includes it. The tables of a filter are one `bytes` object: made once, only read from
   then on, shared by threads.

   The four bytes at each place, capitals made small, are hashed into a bitmap of those that some needle has at its
   anchor; nearly all places end there. The few others are compared with the needles of that hash. A needle of three
   bytes is entered with every byte that may follow. Time does not depend on the number of needles as long as the
   bitmap is sparse. */

#define GRAM_BITS 18
#define BUCKETS (1u << 12)
#define NO_NEEDLE UINT32_MAX
#define FOUND_MAX 100000 /* stretches in one text, as in the twin */

typedef struct {
    uint32_t gram;   /* folded, as hashed */
    uint32_t next;   /* the next needle of this bucket */
    uint32_t at;     /* of its bytes, in the pool */
    uint32_t count;  /* of its bytes */
    uint32_t anchor; /* where in it the gram stands */
    uint32_t fold;   /* capitals and small letters are one */
    uint32_t group;
    uint32_t before, after, run;
} Needle;

typedef struct {
    uint64_t magic;
    uint32_t needles, groups, shorts; /* counts; `shorts`: of needles of three bytes */
    uint8_t grams[(1u << GRAM_BITS) / 8];
    uint32_t buckets[BUCKETS];
    Needle needle[]; /* the pool comes behind them */
} Filter;

#define FILTER_MAGIC 0x7265746c69662031ULL

static uint32_t gram_hash(uint32_t gram) { return (gram * 0x9e3779b1u) >> (32 - GRAM_BITS); }

static inline uint32_t folded_four(const uint8_t *at)
{
    uint32_t gram;
    memcpy(&gram, at, 4);
    return gram | 0x20202020u;
}

/* Of three bytes the fourth is a zero, which no folded byte is. */
static uint32_t folded_three(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | 0x00202020u;
}

static uint8_t folded(uint8_t byte) { return byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte; }

static int is_run_byte(uint8_t byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
           byte == '_' || byte == '-' || byte == '.' || byte == '+' || byte == '/' || byte == '=' || byte == '~' ||
           byte == '%';
}

/* How rare the byte is in text, roughly: where a needle is recognised decides how often it is looked at in vain. */
static const uint8_t RARITY[256] = {
    [0 ... 255] = 2, [' '] = 1, ['-'] = 1, ['_'] = 1, ['='] = 1, ['a' ... 'z'] = 1, ['A' ... 'Z'] = 1,
    ['a'] = 0, ['e'] = 0, ['i'] = 0, ['n'] = 0, ['t'] = 0, ['o'] = 0, ['r'] = 0, ['s'] = 0,
    ['A'] = 0, ['E'] = 0, ['I'] = 0, ['N'] = 0, ['T'] = 0, ['O'] = 0, ['R'] = 0, ['S'] = 0,
    ['j'] = 3, ['k'] = 3, ['q'] = 3, ['v'] = 3, ['w'] = 3, ['x'] = 3, ['y'] = 3, ['z'] = 3,
    ['J'] = 3, ['K'] = 3, ['Q'] = 3, ['V'] = 3, ['W'] = 3, ['X'] = 3, ['Y'] = 3, ['Z'] = 3,
};

static uint32_t best_anchor(const uint8_t *bytes, uint32_t count)
{
    uint32_t best = 0;
    int sum = RARITY[bytes[0]] + RARITY[bytes[1]] + RARITY[bytes[2]] + RARITY[bytes[3]], most = sum;
    for (uint32_t at = 1; at + 4 <= count; at++) {
        sum += RARITY[bytes[at + 3]] - RARITY[bytes[at - 1]];
        if (sum > most)
            most = sum, best = at;
    }
    return best;
}

/* -- making a filter ------------------------------------------------------------------------------------------ */

#define PIECE_BYTES_MIN 4 /* of an encoded needle, as in the twin */
#define PIECE_BYTES_MAX 12
#define FOLDED_BYTES_MIN 5
#define AROUND_MAX 65536u
#define FRONTS " =:\"'\n/,(" /* as in the twin */
#define NEEDLE_BYTES_MAX (1 << 20)
enum { BASE64_GROUP = 0, HEXADECIMAL_GROUP = 1 };

typedef struct {
    Needle *needles;
    uint8_t *pool;
    uint32_t buckets[BUCKETS];
    size_t count, room, used, pool_room;
    int failed;
} Making;

/* Enters one needle, or widens one that is there. */
static void enter(Making *making, const uint8_t *bytes, size_t count, Needle needle)
{
    if (making->failed)
        return;
    if (making->count == making->room || making->used + count > making->pool_room) {
        size_t room = 2 * making->room + 64, pool_room = 2 * making->pool_room + count + 1024;
        Needle *needles = PyMem_Realloc(making->needles, room * sizeof(Needle));
        if (needles != NULL)
            making->needles = needles, making->room = room;
        uint8_t *pool = PyMem_Realloc(making->pool, pool_room);
        if (pool != NULL)
            making->pool = pool, making->pool_room = pool_room;
        if (needles == NULL || pool == NULL) {
            making->failed = 1;
            return;
        }
    }
    uint8_t *own = making->pool + making->used;
    for (size_t index = 0; index < count; index++)
        own[index] = needle.fold ? folded(bytes[index]) : bytes[index];
    needle.at = (uint32_t)making->used, needle.count = (uint32_t)count;
    needle.anchor = count >= 4 ? best_anchor(own, needle.count) : 0;
    needle.gram = count >= 4 ? folded_four(own + needle.anchor) : folded_three(own);
    uint32_t *bucket = &making->buckets[gram_hash(needle.gram) & (BUCKETS - 1)];
    for (uint32_t index = *bucket; index != NO_NEEDLE; index = making->needles[index].next) {
        Needle *other = &making->needles[index];
        if (other->count == needle.count && other->fold == needle.fold && other->group == needle.group &&
            other->run == needle.run && !other->before == !needle.before && !other->after == !needle.after &&
            memcmp(making->pool + other->at, own, count) == 0) {
            other->before = other->before > needle.before ? other->before : needle.before;
            other->after = other->after > needle.after ? other->after : needle.after;
            return;
        }
    }
    needle.next = *bucket;
    *bucket = (uint32_t)making->count;
    making->needles[making->count++] = needle;
    making->used += count;
}

/* A needle as it is written in one of the ways: as it is, small, in capitals, each word with one capital. */
typedef struct {
    const uint8_t *bytes;
    size_t count;
    int way;
} Written;

static uint8_t written_byte(const Written *written, size_t index)
{
    uint8_t byte = written->bytes[index], letter = byte | 0x20;
    if (written->way == 0 || letter < 'a' || letter > 'z')
        return byte;
    if (written->way == 2)
        return letter & 0xdf;
    uint8_t before = index > 0 ? written->bytes[index - 1] | 0x20 : 0;
    return written->way == 3 && (before < 'a' || before > 'z') ? letter & 0xdf : letter;
}

/* One character of an encoding, and what it needs to know. */
typedef uint8_t (*Character)(const Written *written, const char *alphabet, size_t shift, size_t place);

static uint8_t base64_character(const Written *written, const char *alphabet, size_t shift, size_t place)
{
    size_t bit = place * 6 - shift * 8, next = bit / 8 + 1;
    unsigned two = (unsigned)written_byte(written, bit / 8) << 8;
    if (next < written->count)
        two |= written_byte(written, next);
    return (uint8_t)alphabet[two >> (10 - bit % 8) & 0x3f];
}

static uint8_t hexadecimal_character(const Written *written, const char *alphabet, size_t shift, size_t place)
{
    uint8_t byte = written_byte(written, place / 2);
    return (uint8_t)alphabet[place % 2 == 0 ? byte >> 4 : byte & 15];
}

/* The begin of an encoded needle, which takes the characters from `first` to `last`, and with `ends` its end. */
static void enter_pieces(Making *making, const Written *written, Character character, const char *alphabet,
                         size_t shift, size_t first, size_t last, Needle needle, int ends)
{
    size_t count = last > first ? last - first : 0, piece = count < PIECE_BYTES_MAX ? count : PIECE_BYTES_MAX;
    uint8_t own[PIECE_BYTES_MAX];
    if (count < PIECE_BYTES_MIN)
        return;
    if (ends) {
        piece = count / 2 < PIECE_BYTES_MIN ? PIECE_BYTES_MIN : count / 2;
        piece = piece > PIECE_BYTES_MAX ? PIECE_BYTES_MAX : piece;
        for (size_t index = 0; index < piece; index++)
            own[index] = character(written, alphabet, shift, last - piece + index);
        enter(making, own, piece, needle);
    }
    for (size_t index = 0; index < piece; index++)
        own[index] = character(written, alphabet, shift, first + index);
    enter(making, own, piece, needle);
}

static void enter_base64(Making *making, const Written *written, Needle needle, int ends)
{
    static const char *const alphabets[2] = {
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
    };
    needle.fold = 0, needle.group = BASE64_GROUP;
    for (size_t shift = 0; shift < 3; shift++) {
        /* The characters that hold bits of this needle alone. */
        size_t first = shift == 0 ? 0 : shift + 1, last = (shift + written->count) * 8 / 6;
        for (int which = 0; which < 2; which++)
            enter_pieces(making, written, base64_character, alphabets[which], shift, first, last, needle, ends);
    }
}

static void enter_hexadecimal(Making *making, const Written *written, Needle needle, int ends)
{
    needle.fold = 1, needle.group = HEXADECIMAL_GROUP;
    enter_pieces(making, written, hexadecimal_character, "0123456789abcdef", 0, 0, 2 * written->count, needle, ends);
}

static uint32_t encoded_around(size_t count)
{
    uint32_t characters = 2 * (uint32_t)count + 8;
    return characters + 4 * (characters / 32);
}

/* The needle as base64 and hexadecimal spell it: itself, or where capitals do not count each usual way to write it. */
static void enter_encoded(Making *making, const uint8_t *bytes, size_t count, Needle needle)
{
    int itself = needle.before == 0 && needle.after == 0, letters = 0;
    needle.before = encoded_around(itself ? count : needle.before < AROUND_MAX ? needle.before : AROUND_MAX);
    needle.after = encoded_around(itself ? count : needle.after < AROUND_MAX ? needle.after : AROUND_MAX);
    needle.run = 0;
    for (size_t index = 0; index < count; index++)
        letters |= (bytes[index] | 0x20) >= 'a' && (bytes[index] | 0x20) <= 'z';
    if (needle.fold && letters && count < FOLDED_BYTES_MIN)
        return;
    Written written = {.bytes = bytes, .count = count};
    for (; written.way < (needle.fold && letters ? 4 : 1); written.way++) {
        enter_base64(making, &written, needle, itself);
        enter_hexadecimal(making, &written, needle, itself);
    }
    if (count == 3) { /* in most shifts too little of it is its own: with what stands in front of a token it is enough */
        uint8_t longer[4];
        memcpy(longer + 1, bytes, 3);
        for (const char *front = FRONTS; *front; front++) {
            longer[0] = (uint8_t)*front;
            enter_base64(making, &(Written){.bytes = longer, .count = 4}, needle, itself);
        }
    }
}

/* One needle from (bytes, fold, group, before, after, run, encoded); 0 with an exception. */
static int read_needle(PyObject *given, Making *making)
{
    Needle needle = {0};
    Py_buffer bytes;
    unsigned int encoded;
    if (!PyTuple_Check(given)) {
        PyErr_Format(PyExc_TypeError, "a needle is a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(given, "y*IIIIII", &bytes, &needle.fold, &needle.group, &needle.before, &needle.after,
                          &needle.run, &encoded))
        return 0;
    size_t count = (size_t)bytes.len;
    if (count < 3 || count > NEEDLE_BYTES_MAX || needle.group > UINT16_MAX)
        PyErr_Format(PyExc_ValueError, "a needle has three bytes or more, and not too many");
    else {
        enter(making, bytes.buf, count, needle);
        if (encoded)
            enter_encoded(making, bytes.buf, count, needle);
    }
    PyBuffer_Release(&bytes);
    if (making->failed)
        PyErr_NoMemory();
    return !PyErr_Occurred();
}

static PyObject *filter_from(const Making *making)
{
    size_t head = sizeof(Filter) + making->count * sizeof(Needle);
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(head + making->used));
    if (made == NULL)
        return NULL;
    Filter *filter = (Filter *)PyBytes_AS_STRING(made);
    memset(filter, 0, sizeof(Filter));
    filter->magic = FILTER_MAGIC;
    filter->needles = (uint32_t)making->count;
    memcpy(filter->buckets, making->buckets, sizeof filter->buckets);
    for (size_t index = 0; index < making->count; index++) {
        Needle *needle = &filter->needle[index];
        *needle = making->needles[index];
        uint32_t gram = needle->gram, last = needle->count >= 4 ? 0 : 255;
        for (uint32_t next = 0; next <= last; next++) {
            uint32_t hash = gram_hash(last == 0 ? gram : gram | (next | 0x20) << 24);
            filter->grams[hash >> 3] |= (uint8_t)(1u << (hash & 7));
        }
        filter->shorts += last > 0;
        if (needle->group >= filter->groups)
            filter->groups = needle->group + 1;
    }
    if (making->used > 0)
        memcpy((uint8_t *)filter + head, making->pool, making->used);
    return made;
}

/* make_filter(needles) -> bytes */
static PyObject *make_filter(PyObject *module, PyObject *needles)
{
    if (!PyTuple_Check(needles))
        return PyErr_Format(PyExc_TypeError, "make_filter takes a tuple");
    Making *making = PyMem_Calloc(1, sizeof(Making));
    if (making == NULL)
        return PyErr_NoMemory();
    memset(making->buckets, 0xff, sizeof making->buckets);
    int done = 1;
    for (Py_ssize_t index = 0; done && index < PyTuple_GET_SIZE(needles); index++)
        done = read_needle(PyTuple_GET_ITEM(needles, index), making);
    PyObject *made = done ? filter_from(making) : NULL;
    PyMem_Free(making->needles);
    PyMem_Free(making->pool);
    PyMem_Free(making);
    return made;
}

static const Filter *filter_of(PyObject *object)
{
    const Filter *filter = PyBytes_Check(object) ? (const Filter *)PyBytes_AS_STRING(object) : NULL;
    if (filter == NULL || (size_t)PyBytes_GET_SIZE(object) < sizeof(Filter) || filter->magic != FILTER_MAGIC) {
        PyErr_Format(PyExc_TypeError, "not what make_filter made");
        return NULL;
    }
    return filter;
}

/* -- searching ---------------------------------------------------------------------------------------------- */

/* What is known of one group while a text is searched. */
typedef struct {
    int64_t start, end;   /* the stretch that is still open; end is -1 without one */
    int64_t from, clear;  /* no run long enough begins between the two */
} Open;

typedef struct {
    const Filter *filter;
    const uint8_t *pool, *data;
    int64_t count;
    Open *open;      /* a group each; NULL until one is needed */
    PyObject *found; /* list; NULL: only whether there is anything is asked */
    int level;       /* what was found at all: 0 nothing, 1 near a keyword, 2 a needle that is itself the find */
} Search;

static int make_open(Search *search)
{
    if (search->open != NULL)
        return 1;
    search->open = PyMem_Malloc((search->filter->groups + 1) * sizeof(Open));
    for (uint32_t group = 0; search->open != NULL && group < search->filter->groups; group++)
        search->open[group] = (Open){.end = -1};
    return search->open != NULL;
}

/* Whether a run that is long enough begins in the stretch behind `at`. What one search for it has seen the next does
   not look at again, so that a text full of keywords takes no longer. */
static int has_run(Search *search, const Needle *needle, int64_t at)
{
    if (!make_open(search))
        return 1; /* without memory nothing is ruled out */
    Open *open = &search->open[needle->group];
    int64_t end = at + needle->count + needle->after, from = at, place;
    if (end > search->count)
        end = search->count;
    if (at >= open->from && open->clear > at)
        from = open->clear;
    else
        open->from = at;
    for (place = from; place < end; place++) {
        if (!is_run_byte(search->data[place]))
            from = place + 1;
        else if (place - from + 1 >= needle->run)
            break;
    }
    open->clear = from;
    return place < end;
}

static int emit(Search *search, uint32_t group, int64_t start, int64_t end)
{
    if (PyList_GET_SIZE(search->found) >= FOUND_MAX)
        return 0;
    PyObject *stretch = Py_BuildValue("(ILL)", group, (long long)start, (long long)end);
    int failed = stretch == NULL || PyList_Append(search->found, stretch) < 0;
    Py_XDECREF(stretch);
    return failed ? -1 : 1;
}

/* A needle stands at `at`: 1 to go on, 0 when there are too many, -1 with an exception. */
static int note(Search *search, const Needle *needle, int64_t at)
{
    int64_t end = at + needle->count;
    int itself = needle->before == 0 && needle->after == 0;
    if (search->found == NULL && search->level >= 1 + itself)
        return 1;
    if (!itself && needle->run > 0 && !has_run(search, needle, at))
        return 1;
    if (search->level < 1 + itself)
        search->level = 1 + itself;
    if (search->found == NULL)
        return 1;
    if (itself)
        return emit(search, needle->group, at, end);
    Open *open = &search->open[needle->group];
    int64_t start = at > needle->before ? at - needle->before : 0;
    end = search->count - end > needle->after ? end + needle->after : search->count;
    if (open->end >= start && end >= open->start) {
        open->end = end > open->end ? end : open->end;
        open->start = start < open->start ? start : open->start;
        return 1;
    }
    if (open->end >= 0) {
        int done = emit(search, needle->group, open->start, open->end);
        if (done != 1)
            return done;
    }
    open->start = start, open->end = end;
    return 1;
}

static int is_needle(const Needle *needle, const uint8_t *bytes, const uint8_t *at)
{
    if (!needle->fold)
        return memcmp(bytes, at, needle->count) == 0;
    for (uint32_t index = 0; index < needle->count; index++)
        if (folded(at[index]) != bytes[index])
            return 0;
    return 1;
}

/* All needles that have this gram at their anchor, which is at `at`. */
static int look(Search *search, int64_t at, uint32_t gram)
{
    const Filter *filter = search->filter;
    uint32_t index = filter->buckets[gram_hash(gram) & (BUCKETS - 1)];
    for (; index != NO_NEEDLE; index = filter->needle[index].next) {
        const Needle *needle = &filter->needle[index];
        int64_t start = at - needle->anchor;
        if (needle->gram != gram || start < 0 || start + needle->count > search->count)
            continue;
        if (is_needle(needle, search->pool + needle->at, search->data + start)) {
            int done = note(search, needle, start);
            if (done != 1)
                return done;
        }
    }
    return 1;
}

/* Those with the four bytes at `at`, and those with three of them. */
static int look_both(Search *search, int64_t at, uint32_t four)
{
    int done = look(search, at, four);
    return done == 1 && search->filter->shorts > 0 ? look(search, at, four & 0x00ffffffu) : done;
}

#define IN(hash) (grams[(hash) >> 3] >> ((hash) & 7) & 1)

static int search_places(Search *search)
{
    const uint8_t *data = search->data, *grams = search->filter->grams;
    int64_t at = 0, last = search->count - 4;
    for (; at + 3 <= last; at += 4) {
        uint32_t four[4] = {folded_four(data + at), folded_four(data + at + 1), folded_four(data + at + 2),
                            folded_four(data + at + 3)};
        uint32_t a = gram_hash(four[0]), b = gram_hash(four[1]), c = gram_hash(four[2]), d = gram_hash(four[3]);
        unsigned found = IN(a) | IN(b) << 1 | IN(c) << 2 | IN(d) << 3;
        for (int place = 0; found != 0; place++, found >>= 1) {
            int done = found & 1 ? look_both(search, at + place, four[place]) : 1;
            if (done != 1 || (search->level == 2 && search->found == NULL))
                return done;
        }
    }
    for (; at <= last; at++) {
        uint32_t gram = folded_four(data + at);
        int done = IN(gram_hash(gram)) ? look_both(search, at, gram) : 1;
        if (done != 1)
            return done;
    }
    return search->count >= 3 && search->filter->shorts > 0 ? look(search, search->count - 3, folded_three(data + search->count - 3)) : 1;
}

static int search_all(Search *search)
{
    const Filter *filter = search->filter;
    search->pool = (const uint8_t *)filter + sizeof(Filter) + filter->needles * sizeof(Needle);
    return filter->needles > 0 ? search_places(search) : 1;
}

/* What stands in the data: 0 no needle, 1 keywords, 2 a needle that is itself the find. Cannot fail. */
static int level_of(const uint8_t *data, size_t count, const Filter *filter)
{
    Search search = {.filter = filter, .data = data, .count = (int64_t)count};
    search_all(&search);
    PyMem_Free(search.open);
    return search.level;
}

/* find_level(data, filter) -> int */
static PyObject *find_level(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    const Filter *filter;
    if (count != 2 || !PyBytes_Check(given[0]))
        return PyErr_Format(PyExc_TypeError, "find_level takes bytes and a filter");
    if ((filter = filter_of(given[1])) == NULL)
        return NULL;
    return PyLong_FromLong(level_of((const uint8_t *)PyBytes_AS_STRING(given[0]), (size_t)PyBytes_GET_SIZE(given[0]), filter));
}

/* find_needles(data, filter) -> list of (group, start, end) in no order, or None when there are too many */
static PyObject *find_needles(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    const Filter *filter;
    if (count != 2 || !PyBytes_Check(given[0]))
        return PyErr_Format(PyExc_TypeError, "find_needles takes bytes and a filter");
    if ((filter = filter_of(given[1])) == NULL)
        return NULL;
    Search search = {.filter = filter, .data = (const uint8_t *)PyBytes_AS_STRING(given[0])};
    search.count = (int64_t)PyBytes_GET_SIZE(given[0]);
    search.found = PyList_New(0);
    int done = search.found == NULL ? -1 : 1;
    if (done == 1 && !make_open(&search)) {
        PyErr_NoMemory();
        done = -1;
    }
    if (done == 1)
        done = search_all(&search);
    for (uint32_t group = 0; done == 1 && group < filter->groups; group++)
        if (search.open[group].end >= 0)
            done = emit(&search, group, search.open[group].start, search.open[group].end);
    PyMem_Free(search.open);
    if (done == 1)
        return search.found;
    Py_XDECREF(search.found);
    if (done < 0)
        return NULL;
    Py_RETURN_NONE;
}
