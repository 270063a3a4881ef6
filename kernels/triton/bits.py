"""What the Triton kernels share: bits of bf16, rounding to a power-of-two step, the noise of stochastic rounding.

Twin of rounding.py and philox.py. Every floating-point operation here is exact or rounded once by IEEE 754, so the
interpreter, a GPU and the torch reference agree in every bit, as long as nothing is fused (the launcher passes
enable_fp_fusion=False) and subnormals are kept (Triton's add and mul keep them).
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantctl.kernels.philox import FIRST_SIGN

EXPONENT = tl.constexpr(0x7F800000)
MAGNITUDE = tl.constexpr(0x7FFFFFFF)
SIGN = tl.constexpr(-0x80000000)


@triton.jit
def float_of(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def bits_of(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def load_bits(pointers, mask, BF16: tl.constexpr):
    """The fp32 bits of what lies there; bf16 comes as int16, whose bits are the upper half."""
    raw = tl.load(pointers, mask=mask, other=0)
    if BF16:
        return raw.to(tl.int32) << 16
    else:
        return bits_of(raw.to(tl.float32))


@triton.jit
def store_bits(pointers, bits, mask, BF16: tl.constexpr, EXACT: tl.constexpr):
    """Store fp32 bits in the tensor's type, rounded half to even unless EXACT says that the type holds every value."""
    if BF16:
        if not EXACT:
            # one below half, plus the last bit that stays: carries exactly where half-to-even goes up
            bits = bits + 0x7FFF + ((bits >> 16) & 1)
        tl.store(pointers, (bits >> 16).to(tl.int16), mask=mask)
    else:
        tl.store(pointers, float_of(bits).to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def round_to_step(a, step_bits, noise, ROUND: tl.constexpr):
    """a >= 0 rounded to multiples of a power of two (its fp32 bits), of which a has less than 2^23.

    noise: 1 .. 2^24, for stochastic only.
    """
    tl.static_assert((ROUND == "nearest" or ROUND == "away") or ROUND == "stochastic")  # Triton 3.3 chains none
    # next to 2^23 steps fp32 has the resolution of one step: the addition rounds half to even
    shift = float_of(step_bits + (23 << 23))
    rounded = (a + shift) - shift
    if ROUND == "away":
        # half to even went down from exactly one half
        step = float_of(step_bits)
        rounded = tl.where(a - rounded == 0.5 * step, rounded + step, rounded)
    if ROUND == "stochastic":
        step = float_of(step_bits)
        lower = tl.where(rounded > a, rounded - step, rounded)
        # 1 / step: the two exponent fields add up to twice the bias
        per_step = float_of((254 << 23) - step_bits)
        rounded = tl.where((a - lower) * per_step * 16777216.0 >= noise, lower + step, lower)
    return rounded


@triton.jit
def round_to_element(a, limit, noise, MANTISSA_BITS: tl.constexpr, MIN_EXPONENT: tl.constexpr, ROUND: tl.constexpr):
    """a >= 0 rounded to the magnitudes of an element type, at most `limit`."""
    tl.static_assert(MANTISSA_BITS < 23)
    # the binade of a, but a subnormal has the step of the smallest normal number
    binade = tl.maximum(bits_of(a) & EXPONENT, (127 + MIN_EXPONENT) << 23)
    return tl.minimum(round_to_step(a, binade - (MANTISSA_BITS << 23), noise, ROUND), limit)


@triton.jit
def round_to_integer(a, noise, ROUND: tl.constexpr):
    """0 <= a < 2^22 rounded to integers."""
    return round_to_step(a, tl.full(a.shape, 127 << 23, tl.int32), noise, ROUND)


@triton.jit
def _word(x):
    return x.to(tl.uint32, bitcast=True)


@triton.jit
def _philox(counter, seed_low, seed_high, call_low, call_high, rank):
    zero = (counter & 0).to(tl.uint32)
    return tl.philox_impl(
        (counter & 0xFFFFFFFF).to(tl.uint32),
        ((counter >> 32) | (rank << 16)).to(tl.uint32),
        zero + _word(call_low),
        zero + _word(call_high),
        zero + _word(seed_low),
        zero + _word(seed_high),
    )


@triton.jit
def _noise(word):
    # 24 bits + 1: 1 .. 2^24, exact in fp32, to be compared with the fraction * 2^24
    return ((word >> 8) + 1).to(tl.float32)


@triton.jit
def noise_of_elements(index, seed_low, seed_high, call_low, call_high, rank):
    """The noise of elements with these int64 indices: word index % 4 of the counter index // 4."""
    w0, w1, w2, w3 = _philox(index >> 2, seed_low, seed_high, call_low, call_high, rank)
    word = index & 3
    return _noise(tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3)))


@triton.jit
def noise_of_fours(counter, seed_low, seed_high, call_low, call_high, rank, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The noise [ROWS, COLUMNS] of elements whose counters, one for four neighbours, are [ROWS, COLUMNS // 4]."""
    w0, w1, w2, w3 = _philox(counter, seed_low, seed_high, call_low, call_high, rank)
    # join makes the last axis: (w0, w2) with (w1, w3) is w0 w1 w2 w3 in row-major order
    return _noise(tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (ROWS, COLUMNS)))


SIGNS_FROM = tl.constexpr(FIRST_SIGN >> 32)


@triton.jit
def random_words(index, seed_low, seed_high, call_low, call_high, rank):
    """The top bit, int32, of the words of philox.random_signs with these int32 indices."""
    zero = (index & 0).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(
        (index >> 2).to(tl.uint32),
        zero + _word((rank << 16) | SIGNS_FROM),
        zero + _word(call_low),
        zero + _word(call_high),
        zero + _word(seed_low),
        zero + _word(seed_high),
    )
    word = index & 3
    return (tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3)) >> 31).to(tl.int32)
