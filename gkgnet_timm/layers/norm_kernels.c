/* BatchNorm and GELU of nodes in training, one pass over memory where PyTorch takes two. norm_act.py compiles this
   file. Nodes are rows (nodes, channels) of float or, if half, of bfloat16. They are summed in pieces of some rows, and
   the pieces in their order, so that results do not depend on the number of threads. */

#include <math.h>
#include <stdint.h>

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

/* exp(-x) for x >= 0, within 2 units of the last place: 2^n times a polynomial of what is left of the exponent. */
static inline float exp_negative(float x) {
    x = x < 87.0f ? x : 87.0f; /* a NaN becomes 87: callers multiply by their own x */
    const float shifted = x * -1.44269504f + 12582912.0f; /* rounds to an integer, in the lower bits */
    const union { float number; int32_t bits; } rounded = {shifted};
    const float n = shifted - 12582912.0f, r = (-x - n * 0.693145752f) - n * 1.42860677e-6f;
    const float power = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666672f + r * (0.0416664854f +
                        r * (0.00833360967f + r * 0.00139304355f)))));
    const union { int32_t bits; float number; } scale = {(rounded.bits << 23) + 0x3f800000};
    return power * scale.number;
}

/* Share of a normal distribution below x, within 2e-7, and e = exp(-x^2 / 2). Its upper tail is e times a polynomial in
   1 / (1 + 0.39 |x|), fitted to erfc by least squares of the relative error. */
static inline float normal_below(float x, float e) {
    const float size = x < 0.0f ? -x : x, t = 1.0f / (1.0f + 0.39f * size);
    const float tail = e * (-1.98355682e-05f + t * (0.156089487f + t * (0.150198177f + t * (0.164044633f +
                       t * (-0.031872832f + t * (0.286928342f + t * (-0.380090415f + t * (0.190078119f +
                       t * -0.0353556677f))))))));
    return x < 0.0f ? tail : 1.0f - tail;
}

static inline float gelu(float x) { return x * normal_below(x, exp_negative(0.5f * x * x)); }

static inline float gelu_slope(float x) {
    const float e = exp_negative(0.5f * x * x);
    return normal_below(x, e) + x * e * 0.398942280f;
}

/* Mean and squared distance from it of the rows of each piece: sums (pieces, 2, channels). */
static inline __attribute__((always_inline)) void measure_piece(
    const void *restrict x, int64_t first, int64_t last, int64_t channels, float *restrict mean, float *restrict
    squares, int half) {
    for (int64_t c = 0; c < channels; ++c) mean[c] = squares[c] = 0.0f;
    for (int64_t row = first; row < last; ++row)
        for (int64_t c = 0; c < channels; ++c) mean[c] += load(x, row * channels + c, half);
    for (int64_t c = 0; c < channels; ++c) mean[c] /= last - first;
    for (int64_t row = first; row < last; ++row)
        for (int64_t c = 0; c < channels; ++c) {
            const float distance = load(x, row * channels + c, half) - mean[c];
            squares[c] += distance * distance;
        }
}

/* x (nodes, channels) -> mean and biased variance (channels). Pieces of `rows` rows; sums (pieces, 2, channels). */
void measure_nodes(const void *x, int64_t nodes, int64_t channels, int64_t rows, float *sums, float *mean,
                   float *variance, int half, int threads) {
    const int64_t pieces = (nodes + rows - 1) / rows;
#pragma omp parallel for num_threads(threads)
    for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t first = piece * rows, last = first + rows < nodes ? first + rows : nodes;
        float *of_piece = sums + 2 * piece * channels;
        if (half)
            measure_piece(x, first, last, channels, of_piece, of_piece + channels, 1);
        else
            measure_piece(x, first, last, channels, of_piece, of_piece + channels, 0);
    }
#pragma omp parallel for num_threads(threads)
    for (int64_t c = 0; c < channels; ++c) {
        double total = 0.0, squares = 0.0;
        for (int64_t piece = 0; piece < pieces; ++piece) {
            const int64_t count = piece * rows + rows < nodes ? rows : nodes - piece * rows;
            total += (double)sums[2 * piece * channels + c] * count;
        }
        mean[c] = total / nodes;
        for (int64_t piece = 0; piece < pieces; ++piece) {
            const int64_t count = piece * rows + rows < nodes ? rows : nodes - piece * rows;
            const double distance = sums[2 * piece * channels + c] - total / nodes;
            squares += sums[(2 * piece + 1) * channels + c] + distance * distance * count;
        }
        variance[c] = squares / nodes;
    }
}

static inline __attribute__((always_inline)) void normalise_row(
    const void *restrict x, int64_t start, int64_t channels, const float *restrict mean, const float *restrict
    scale, const float *restrict bias, void *restrict out, int has_gelu, int half) {
    for (int64_t c = 0; c < channels; ++c) {
        const float z = (load(x, start + c, half) - mean[c]) * scale[c] + bias[c];
        store(out, start + c, half, has_gelu ? gelu(z) : z);
    }
}

/* (x - mean) * scale + bias, and GELU of it: x (nodes, channels), the others (channels) -> out (nodes, channels). */
void normalise_nodes(const void *x, int64_t nodes, int64_t channels, const float *mean, const float *scale,
                     const float *bias, void *out, int has_gelu, int half, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < nodes; ++row) {
        const int64_t start = row * channels;
        if (half && has_gelu)
            normalise_row(x, start, channels, mean, scale, bias, out, 1, 1);
        else if (half)
            normalise_row(x, start, channels, mean, scale, bias, out, 0, 1);
        else if (has_gelu)
            normalise_row(x, start, channels, mean, scale, bias, out, 1, 0);
        else
            normalise_row(x, start, channels, mean, scale, bias, out, 0, 0);
    }
}

/* The gradient before GELU. */
static inline float before_gelu(const void *grad, const void *x, int64_t place, int64_t c, const float *mean,
                                const float *scale, const float *bias, int has_gelu, int half) {
    const float slope = has_gelu ? gelu_slope((load(x, place, half) - mean[c]) * scale[c] + bias[c]) : 1.0f;
    return load(grad, place, half) * slope;
}

static inline __attribute__((always_inline)) void sum_piece(
    const void *restrict grad, const void *restrict x, int64_t first, int64_t last, int64_t channels, const float
    *restrict mean, const float *restrict scale, const float *restrict bias, float *restrict plain, float *restrict
    product, int has_gelu, int half) {
    for (int64_t c = 0; c < channels; ++c) plain[c] = product[c] = 0.0f;
    for (int64_t row = first; row < last; ++row)
        for (int64_t c = 0; c < channels; ++c) {
            const int64_t place = row * channels + c;
            const float value = before_gelu(grad, x, place, c, mean, scale, bias, has_gelu, half);
            plain[c] += value;
            product[c] += value * (load(x, place, half) - mean[c]);
        }
}

static inline __attribute__((always_inline)) void spread_row(
    const void *restrict grad, const void *restrict x, int64_t start, int64_t channels, const float *restrict mean,
    const float *restrict scale, const float *restrict bias, const float *restrict shift, const float *restrict
    slope, void *restrict out, int has_gelu, int half) {
    for (int64_t c = 0; c < channels; ++c) {
        const float value = before_gelu(grad, x, start + c, c, mean, scale, bias, has_gelu, half);
        const float centred = load(x, start + c, half) - mean[c];
        store(out, start + c, half, scale[c] * (value - shift[c] - centred * slope[c]));
    }
}

/* The gradients of x (nodes, channels), and the sums over the nodes of the gradient before GELU (channels), plain and
   times x - mean. inverse (channels) is one over the variance with its epsilon. sums (pieces + 1, 2, channels). */
void spread_gradient(const void *grad, const void *x, int64_t nodes, int64_t channels, int64_t rows, const float *mean,
                     const float *scale, const float *bias, const float *inverse, float *sums, float *plain,
                     float *product, void *out, int has_gelu, int half, int threads) {
    const int64_t pieces = (nodes + rows - 1) / rows;
    float *shift = sums + 2 * pieces * channels, *slope = shift + channels;
#pragma omp parallel for num_threads(threads)
    for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t first = piece * rows, last = first + rows < nodes ? first + rows : nodes;
        float *a = sums + 2 * piece * channels, *b = a + channels;
        if (half && has_gelu)
            sum_piece(grad, x, first, last, channels, mean, scale, bias, a, b, 1, 1);
        else if (half)
            sum_piece(grad, x, first, last, channels, mean, scale, bias, a, b, 0, 1);
        else if (has_gelu)
            sum_piece(grad, x, first, last, channels, mean, scale, bias, a, b, 1, 0);
        else
            sum_piece(grad, x, first, last, channels, mean, scale, bias, a, b, 0, 0);
    }
#pragma omp parallel for num_threads(threads)
    for (int64_t c = 0; c < channels; ++c) {
        double first = 0.0, second = 0.0;
        for (int64_t piece = 0; piece < pieces; ++piece) {
            first += sums[2 * piece * channels + c];
            second += sums[(2 * piece + 1) * channels + c];
        }
        plain[c] = first;
        product[c] = second;
        shift[c] = first / nodes;
        slope[c] = second / nodes * inverse[c];
    }
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < nodes; ++row) {
        const int64_t start = row * channels;
        if (half && has_gelu)
            spread_row(grad, x, start, channels, mean, scale, bias, shift, slope, out, 1, 1);
        else if (half)
            spread_row(grad, x, start, channels, mean, scale, bias, shift, slope, out, 0, 1);
        else if (has_gelu)
            spread_row(grad, x, start, channels, mean, scale, bias, shift, slope, out, 1, 0);
        else
            spread_row(grad, x, start, channels, mean, scale, bias, shift, slope, out, 0, 0);
    }
}
