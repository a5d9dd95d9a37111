"""Functions of single numbers in float32, written so that a loop over them is vectorised.

The C library's take one number at a time, and numba has no others without a library of Intel's. Polynomials and constants
are those of Cephes (Moshier, netlib.org/cephes). Errors are below two units in the last place, unless said otherwise.
"""

from __future__ import annotations

import numba
import numpy as np

f4, i4 = np.float32, np.int32

# Nothing here may be reordered, or rounding errors that cancel would no longer; fused multiply-adds may be used.
function = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"}, forceinline=True
)

ZERO, HALF, ONE, TWO = f4(0), f4(0.5), f4(1), f4(2)
LOWEST, HIGHEST = f4(-87), f4(88)  # e to these is just a normal number
PER_LN2, LN2_HIGH, LN2_LOW = f4(1.44269504088896341), f4(0.693359375), f4(-2.12194440e-4)
EXP = tuple(
    map(
        f4,
        (
            1.9875691500e-4,
            1.3981999507e-3,
            8.3334519073e-3,
            4.1665795894e-2,
            1.6666665459e-1,
            5.0000001201e-1,
        ),
    )
)
LOG = tuple(
    map(
        f4,
        (
            7.0376836292e-2,
            -1.1514610310e-1,
            1.1676998740e-1,
            -1.2420140846e-1,
            1.4249322787e-1,
            -1.6668057665e-1,
            2.0000714765e-1,
            -2.4999993993e-1,
            3.3333331174e-1,
        ),
    )
)
# A float32 as an integer: 9 bits of sign and exponent, 23 of the mantissa. Mantissas are taken from sqrt(1/2) to sqrt(2).
MANTISSA_BITS, BIAS, MANTISSA = i4(23), i4(127), i4(0x007FFFFF)
SQRT_HALF, FROM_ONE = i4(0x3F3504F3), i4(0x3F800000 - 0x3F3504F3)
EXPONENT_OF_ONE = i4(0x3F800000)
# Added to a number, it leaves no room for a fraction, and the whole number in the lowest bits.
ROUND = f4(3 << 22)
LARGE = f4(8)
HALF_LOG_2PI = f4(0.9189385332046727)


@function
def exp(x):
    """E to the x, for x from -87 to 88; beyond them it stays what it is there."""
    return exp_within(min(max(x, LOWEST), HIGHEST))


@function
def exp_within(x):
    """The same for an x that is known to be from -87 to 88."""
    shifted = f4(x * PER_LN2 + ROUND)
    n = shifted - ROUND
    r = x - n * LN2_HIGH
    r -= n * LN2_LOW
    y = ((((EXP[0] * r + EXP[1]) * r + EXP[2]) * r + EXP[3]) * r + EXP[4]) * r + EXP[5]
    return (y * r * r + r + ONE) * i4(i4(shifted.view(i4) << MANTISSA_BITS) + EXPONENT_OF_ONE).view(f4)


@function
def log(x):
    """Natural logarithm of a positive normal number."""
    bits = i4(f4(x).view(i4) + FROM_ONE)
    n = f4(i4(i4(bits >> MANTISSA_BITS) - BIAS))
    f = i4(i4(bits & MANTISSA) + SQRT_HALF).view(f4) - ONE
    y = (((LOG[0] * f + LOG[1]) * f + LOG[2]) * f + LOG[3]) * f + LOG[4]
    y = (((y * f + LOG[5]) * f + LOG[6]) * f + LOG[7]) * f + LOG[8]
    square = f * f
    return f + (y * f * square + n * LN2_LOW - HALF * square) + n * LN2_HIGH


@function
def log1p(x):
    """Logarithm of 1 + x, x >= 0, which is exact where x is small, too."""
    return log1p_and_inverse(x)[0]


@function
def log1p_and_inverse(x):
    """The same with 1 / (1 + x), of one division."""
    u = ONE + x
    inverse = ONE / u
    return log(u) + (x - (u - ONE)) * inverse, inverse


@function
def rising(x):
    """X (x + 1) ... (x + 7), its derivative, and x + 8; where x is 8 or more, 1, 0 and x.

    Gamma(x) is gamma(x + 8) by that product, and Stirling's series is exact enough from 8 on.
    """
    small = ONE if x < LARGE else ZERO
    y = min(x, LARGE)  # so that nothing becomes infinite where it is not used
    # of pairs of factors, then of pairs of pairs
    a, b = y * (y + ONE), (y + f4(2)) * (y + f4(3))
    c, d = (y + f4(4)) * (y + f4(5)), (y + f4(6)) * (y + f4(7))
    twice = y + y
    da, db, dc, dd = twice + ONE, twice + f4(5), twice + f4(9), twice + f4(13)
    ab, cd = a * b, c * d
    above = (da * b + a * db) * cd + ab * (dc * d + c * dd)
    return small * (ab * cd) + (ONE - small), small * above, x + small * LARGE


@function
def stirling(x):
    """Logarithm of the gamma function at x >= 8, but for half the logarithm of 2 pi."""
    inverse = ONE / x
    return (x - HALF) * log(x) - x + inverse * (f4(1 / 12) - inverse * inverse * f4(1 / 360))


@function
def log_rising(x, theta):
    """Lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) for x >= 0, theta > 0, as exact as the largest of them.

    That is two units in the last place of y log(y), y = x + theta + 8: 0.02 for theta of 10,000.
    """
    first, _, a = rising(x + theta)
    second, _, b = rising(theta)
    third, _, c = rising(x + ONE)
    return stirling(a) - stirling(b) - stirling(c) - HALF_LOG_2PI + log(second * third / first)


@function
def harmonic(x, theta):
    """Digamma(x + theta) - digamma(theta) for x >= 0, theta > 0."""
    below, above, a = rising(x + theta)
    first = above / below
    below, above, b = rising(theta)
    return log(a / b) - series(a) + series(b) - first + above / below


@function
def series(x):
    """Log(x) - digamma(x) at x >= 8."""
    inverse = ONE / x
    square = inverse * inverse
    return HALF * inverse + square * (f4(1 / 12) - square * (f4(1 / 120) - square * f4(1 / 252)))


# stamp a7a9bea6615e666d
