/* The largest scores of every row, for the neighbour search on a CPU. selection.py compiles this file.

   A row is seen as 64 parts, part p of it being p, p + 64, p + 128, ... The count-th largest of the maxima of the parts
   bounds the count-th largest score from below, so that only parts whose maximum reaches the bound have to be searched,
   about count of them. The loops over parts are written for the compiler to vectorise. */

#include <stdint.h>

enum { PARTS = 64, MOST = 32 };

/* Sorts a score in behind all that are not smaller. Returns how many are kept now. */
static inline int insert(float *best, int64_t *index, int kept, int count, float score, int64_t place) {
    int i = kept < count ? kept++ : count - 1;
    for (; i > 0 && score > best[i - 1]; --i) {
        best[i] = best[i - 1];
        index[i] = index[i - 1];
    }
    best[i] = score;
    index[i] = place;
    return kept;
}

static void select_row(const float *scores, int64_t size, int count, int64_t *index) {
    float maxima[PARTS], best[MOST];
    int ranks[PARTS] = {0};
    for (int p = 0; p < PARTS; ++p) maxima[p] = -__builtin_inff();
    int64_t start = 0;
    for (; start + PARTS <= size; start += PARTS)
        for (int p = 0; p < PARTS; ++p) maxima[p] = scores[start + p] > maxima[p] ? scores[start + p] : maxima[p];
    for (int p = 0; start + p < size; ++p) maxima[p] = scores[start + p] > maxima[p] ? scores[start + p] : maxima[p];

    for (int other = 0; other < PARTS; ++other)
        for (int p = 0; p < PARTS; ++p) ranks[p] += maxima[other] > maxima[p];
    float bound = __builtin_inff();
    for (int p = 0; p < PARTS; ++p) bound = ranks[p] < count && maxima[p] < bound ? maxima[p] : bound;

    int kept = 0;
    for (int p = 0; p < PARTS; ++p) {
        if (maxima[p] < bound) continue;
        for (int64_t first = p; first < size; first += PARTS * PARTS) {
            int hits[PARTS], found = 0; /* without a branch, which would be mispredicted */
            for (int i = 0; i < PARTS && first + i * PARTS < size; ++i) {
                hits[found] = i;
                found += scores[first + i * PARTS] >= bound;
            }
            for (int i = 0; i < found; ++i) {
                const int64_t place = first + hits[i] * PARTS;
                if (kept < count || scores[place] > best[count - 1])
                    kept = insert(best, index, kept, count, scores[place], place);
            }
        }
    }
    for (; kept < count; ++kept) index[kept] = kept; /* fewer than count are not NaN: any index will do */
}

/* scores (rows, size) and index (rows, count), largest first. 0 < count <= MOST, count <= size. */
void select_largest(const float *scores, int64_t rows, int64_t size, int count, int64_t *index, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; ++row) select_row(scores + row * size, size, count, index + row * count);
}
