/* The graph operations on a CPU that PyTorch has no fast operator for. cpu.py compiles this file.
   Inner loops are written for the compiler to vectorise. */

#include <stdint.h>

enum { MOST = 128, SOME = 32, FEW = 12 };

static inline float greater(float a, float b) { return a > b ? a : b; }

/* The count-th largest of some values, at most MOST. Inline as select_row is, so that short and long lists have loops of
   a known length each. */
static inline __attribute__((always_inline)) float rank_value(const float *values, int size, int count) {
    int ranks[MOST];
    for (int i = 0; i < size; ++i) ranks[i] = 0;
    for (int other = 0; other < size; ++other)
        for (int i = 0; i < size; ++i) ranks[i] += values[other] > values[i];
    float found = __builtin_inff();
    for (int i = 0; i < size; ++i) found = ranks[i] < count && values[i] < found ? values[i] : found;
    return found;
}

/* Leaves the count places of the largest scores, largest first, of equal ones the lower place. Returns how many there
   are. */
static int sort(const float *scores, int32_t *places, int found, int count) {
    float values[2 * MOST];
    int32_t at[2 * MOST];
    int ranks[2 * MOST];
    const int padded = (found + 15) / 16 * 16;
    for (int i = 0; i < padded; ++i) {
        values[i] = i < found ? scores[places[i]] : -__builtin_inff();
        at[i] = i < found ? places[i] : INT32_MAX;
        ranks[i] = 0;
    }
    for (int other = 0; other < found; ++other) {
        const float value = values[other];
        const int32_t place = at[other];
        for (int i = 0; i < padded; ++i) ranks[i] += (value > values[i]) | ((value == values[i]) & (place < at[i]));
    }
    for (int i = 0; i < found; ++i)
        if (ranks[i] < count) places[ranks[i]] = at[i];
    return found < count ? found : count;
}

/* A row is seen as some parts, at least count and at most MOST: of 64, part p is p, p + 64, p + 128, ... The count-th
   largest of the maxima of the parts, or of pairs of parts, bounds the count-th largest score from below, so that only
   parts whose maximum reaches the bound have to be searched, about count of them. */
static inline __attribute__((always_inline)) void select_row(const float *scores, int64_t size, int count,
                                                             int64_t *index, const int parts) {
    float maxima[MOST], coarse[MOST / 2];
    for (int p = 0; p < parts; ++p) maxima[p] = -__builtin_inff();
    int64_t start = 0;
    for (; start + parts <= size; start += parts)
        for (int p = 0; p < parts; ++p) maxima[p] = greater(scores[start + p], maxima[p]);
    for (int p = 0; start + p < size; ++p) maxima[p] = greater(scores[start + p], maxima[p]);
    for (int p = 0; p < parts / 2; ++p) coarse[p] = greater(maxima[p], maxima[p + parts / 2]);
    const float bound = count <= FEW ? rank_value(coarse, parts / 2, count) : rank_value(maxima, parts, count);

    /* what is kept is counted without branches, which would be mispredicted */
    int kept[MOST], searched = 0, found = 0;
    for (int p = 0; p < parts; ++p) {
        kept[searched] = p;
        searched += maxima[p] >= bound;
    }
    int32_t places[2 * MOST];
    for (int j = 0; j < searched; ++j)
        for (int64_t first = kept[j]; first < size; first += parts * parts) {
            for (int i = 0; i < parts && first + i * parts < size; ++i) {
                places[found] = first + i * parts;
                found += scores[first + i * parts] >= bound;
            }
            if (found > parts) found = sort(scores, places, found, count);
        }
    found = sort(scores, places, found, count);
    for (int i = 0; i < count; ++i) index[i] = i < found ? places[i] : i; /* too few are not NaN: any index will do */
}

/* scores (rows, size) -> index (rows, count), largest first, of equal ones the lower index. 0 < count <= MOST,
   count <= size < 2^31. */
void select_largest(const float *scores, int64_t rows, int64_t size, int count, int64_t *index, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; ++row)
        if (count <= SOME)
            select_row(scores + row * size, size, count, index + row * count, 64);
        else
            select_row(scores + row * size, size, count, index + row * count, MOST);
}

static inline float load(const void *values, int64_t place, int half) {
    if (!half) return ((const float *)values)[place];
    const union { uint32_t bits; float number; } wide = {(uint32_t)((const uint16_t *)values)[place] << 16};
    return wide.number;
}

/* bfloat16 is rounded to the nearest, of two to the even one, as in PyTorch. */
static inline void store(void *values, int64_t place, int half, float value) {
    const union { float number; uint32_t bits; } wide = {value};
    if (half)
        ((uint16_t *)values)[place] =
            value != value ? 0x7fc0 : (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
    else
        ((float *)values)[place] = value;
}

/* One group of one node: at x_place its channels, at y_place those of the first candidate, the next are stride apart.
   Inline, so that there is a loop for each type, with and without winners. */
static inline __attribute__((always_inline)) void relate_node(const void *x, int64_t x_place, const void *y,
                                                              int64_t y_place, int64_t stride, const int64_t *neighbors,
                                                              int64_t k, int64_t size, void *out, int32_t *winner,
                                                              int half) {
    enum { BLOCK = 64 };
    for (int64_t first = 0; first < size; first += BLOCK) {
        const int width = size - first < BLOCK ? size - first : BLOCK;
        float largest[BLOCK];
        int32_t best[BLOCK];
        for (int c = 0; c < width; ++c) {
            largest[c] = load(y, y_place + neighbors[0] * stride + first + c, half);
            best[c] = neighbors[0];
        }
        for (int64_t j = 1; j < k; ++j) {
            const int64_t row = y_place + neighbors[j] * stride + first;
            const int32_t candidate = neighbors[j];
            for (int c = 0; c < width; ++c) { /* the first of equals stays, NaN spreads */
                const float value = load(y, row + c, half);
                const int larger = value > largest[c] || value != value;
                largest[c] = larger ? value : largest[c];
                best[c] = larger ? candidate : best[c];
            }
        }
        for (int c = 0; c < width; ++c) {
            const float own = load(x, x_place + first + c, half);
            store(out, 2 * (x_place + first + c), half, own);
            store(out, 2 * (x_place + first + c) + 1, half, largest[c] - own);
        }
        if (winner)
            for (int c = 0; c < width; ++c) winner[x_place + first + c] = best[c];
    }
}

/* x (batch, nodes, groups, size), y (batch, candidates, groups, size), neighbors (batch, groups, nodes, k) of which the
   first two dimensions have strides -> out (batch, nodes, groups, size, 2): x and the largest y minus x, and if not
   NULL winner (batch, nodes, groups, size): the candidate of the largest y. Nodes are float or, if half, bfloat16.
   Returns how many neighbors are no candidates. */
int64_t interleave_max_relative(const void *x, const void *y, const int64_t *neighbors, int64_t batch_stride,
                                int64_t group_stride, int64_t batch, int64_t nodes, int64_t candidates, int64_t groups,
                                int64_t size, int64_t k, void *out, int32_t *winner, int half, int threads) {
    int64_t wrong = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : wrong)
    for (int64_t node = 0; node < batch * nodes; ++node)
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t b = node / nodes;
            const int64_t *near = neighbors + b * batch_stride + g * group_stride + node % nodes * k;
            int64_t bad = 0;
            for (int64_t j = 0; j < k; ++j) bad += near[j] < 0 || near[j] >= candidates;
            wrong += bad;
            if (bad) continue;
            const int64_t x_place = (node * groups + g) * size, y_place = (b * candidates * groups + g) * size;
            const int64_t stride = groups * size;
            if (half && winner)
                relate_node(x, x_place, y, y_place, stride, near, k, size, out, winner, 1);
            else if (half)
                relate_node(x, x_place, y, y_place, stride, near, k, size, out, 0, 1);
            else if (winner)
                relate_node(x, x_place, y, y_place, stride, near, k, size, out, winner, 0);
            else
                relate_node(x, x_place, y, y_place, stride, near, k, size, out, 0, 0);
        }
    return wrong;
}

/* grad (batch, nodes, channels) of which all dimensions have strides, winner (batch, nodes, channels) -> out (batch,
   candidates, channels): the sum of the gradients that each candidate won, in the order of the nodes. Images and strips
   of channels are independent. Returns how many winners are no candidates. */
int64_t scatter_to_winners(const float *grad, int64_t batch_stride, int64_t node_stride, int64_t channel_stride,
                           const int32_t *winner, int64_t batch, int64_t nodes, int64_t candidates, int64_t channels,
                           float *out, int threads) {
    enum { STRIP = 64 };
    const int64_t strips = (channels + STRIP - 1) / STRIP;
    int64_t wrong = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : wrong)
    for (int64_t part = 0; part < batch * strips; ++part) {
        const int64_t b = part / strips, first = part % strips * STRIP;
        const int64_t last = first + STRIP < channels ? first + STRIP : channels;
        float *of_image = out + b * candidates * channels;
        for (int64_t j = 0; j < candidates; ++j)
            for (int64_t c = first; c < last; ++c) of_image[j * channels + c] = 0.0f;
        for (int64_t node = 0; node < nodes; ++node)
            for (int64_t c = first; c < last; ++c) {
                const int64_t at = winner[(b * nodes + node) * channels + c];
                if (at < 0 || at >= candidates)
                    wrong += 1;
                else
                    of_image[at * channels + c] += grad[b * batch_stride + node * node_stride + c * channel_stride];
            }
    }
    return wrong;
}
