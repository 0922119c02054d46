/* The graph operations on a CPU that PyTorch has no fast operator for, in float32. cpu_kernels.py compiles this file.
   Inner loops are written for the compiler to vectorise. */

#include <stdint.h>

enum { PARTS = 64, MOST = 32, FEW = 12, HITS = 64 };

static inline float greater(float a, float b) { return a > b ? a : b; }

/* The count-th largest of some values. */
static inline float rank_value(const float *values, int size, int count) {
    int ranks[PARTS] = {0};
    for (int other = 0; other < size; ++other)
        for (int i = 0; i < size; ++i) ranks[i] += values[other] > values[i];
    float found = __builtin_inff();
    for (int i = 0; i < size; ++i) found = ranks[i] < count && values[i] < found ? values[i] : found;
    return found;
}

/* Leaves the count places of the largest scores, largest first. Returns how many there are. */
static int sort(const float *scores, int64_t *places, int found, int count) {
    float values[HITS + PARTS];
    int ranks[HITS + PARTS] = {0};
    int64_t sorted[MOST];
    const int padded = (found + 15) / 16 * 16;
    for (int i = 0; i < padded; ++i) values[i] = i < found ? scores[places[i]] : -__builtin_inff();
    for (int other = 0; other < found; ++other)
        for (int i = 0; i < padded; ++i)
            ranks[i] += values[other] > values[i] || (values[other] == values[i] && other < i);
    for (int i = 0; i < found; ++i)
        if (ranks[i] < count) sorted[ranks[i]] = places[i];
    found = found < count ? found : count;
    for (int i = 0; i < found; ++i) places[i] = sorted[i];
    return found;
}

/* A row is seen as 64 parts, part p of it being p, p + 64, p + 128, ... The count-th largest of the maxima of the parts,
   or of pairs of parts, bounds the count-th largest score from below, so that only parts whose maximum reaches the bound
   have to be searched, about count of them. */
static void select_row(const float *scores, int64_t size, int count, int64_t *index) {
    float maxima[PARTS], coarse[PARTS / 2];
    for (int p = 0; p < PARTS; ++p) maxima[p] = -__builtin_inff();
    int64_t start = 0;
    for (; start + PARTS <= size; start += PARTS)
        for (int p = 0; p < PARTS; ++p) maxima[p] = greater(scores[start + p], maxima[p]);
    for (int p = 0; start + p < size; ++p) maxima[p] = greater(scores[start + p], maxima[p]);
    for (int p = 0; p < PARTS / 2; ++p) coarse[p] = greater(maxima[p], maxima[p + PARTS / 2]);
    const float bound = count <= FEW ? rank_value(coarse, PARTS / 2, count) : rank_value(maxima, PARTS, count);

    /* what is kept is counted without branches, which would be mispredicted */
    int parts[PARTS], searched = 0, found = 0;
    for (int p = 0; p < PARTS; ++p) {
        parts[searched] = p;
        searched += maxima[p] >= bound;
    }
    int64_t places[HITS + PARTS];
    for (int j = 0; j < searched; ++j)
        for (int64_t first = parts[j]; first < size; first += PARTS * PARTS) {
            for (int i = 0; i < PARTS && first + i * PARTS < size; ++i) {
                places[found] = first + i * PARTS;
                found += scores[first + i * PARTS] >= bound;
            }
            if (found > HITS) found = sort(scores, places, found, count);
        }
    found = sort(scores, places, found, count);
    for (int i = 0; i < count; ++i) index[i] = i < found ? places[i] : i; /* too few are not NaN: any index will do */
}

/* scores (rows, size) -> index (rows, count), largest first. 0 < count <= MOST, count <= size. */
void select_largest(const float *scores, int64_t rows, int64_t size, int count, int64_t *index, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; ++row) select_row(scores + row * size, size, count, index + row * count);
}

/* One group of one node. Rows of candidates are stride apart. */
static void relate_node(const float *x, const float *y, int64_t stride, const int64_t *neighbors, int64_t k, int64_t size,
                        float *out) {
    enum { BLOCK = 64 };
    for (int64_t first = 0; first < size; first += BLOCK) {
        const int width = size - first < BLOCK ? size - first : BLOCK;
        float largest[BLOCK];
        for (int c = 0; c < width; ++c) largest[c] = y[neighbors[0] * stride + first + c];
        for (int64_t j = 1; j < k; ++j) {
            const float *row = y + neighbors[j] * stride + first;
            for (int c = 0; c < width; ++c) /* NaN spreads */
                largest[c] = row[c] > largest[c] || row[c] != row[c] ? row[c] : largest[c];
        }
        for (int c = 0; c < width; ++c) {
            out[2 * (first + c)] = x[first + c];
            out[2 * (first + c) + 1] = largest[c] - x[first + c];
        }
    }
}

/* x (batch, nodes, groups, size), y (batch, candidates, groups, size), neighbors (batch, groups, nodes, k) of which the
   first two dimensions have strides -> out (batch, nodes, groups, size, 2): x and the largest y minus x.
   Returns how many neighbors are no candidates. */
int64_t interleave_max_relative(const float *x, const float *y, const int64_t *neighbors, int64_t batch_stride,
                                int64_t group_stride, int64_t batch, int64_t nodes, int64_t candidates, int64_t groups,
                                int64_t size, int64_t k, float *out, int threads) {
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
            const int64_t place = (node * groups + g) * size;
            relate_node(x + place, y + (b * candidates * groups + g) * size, groups * size, near, k, size, out + 2 * place);
        }
    return wrong;
}
