"""The statistics as Triton programs. `gpu` launches them; Triton's interpreter runs them without a GPU.

Each takes activations through their strides: (samples, rows, neurons), where rows are positions, or the positions
of all images where these lie behind one another in memory. A program walks `CHUNK` rows of a block of neurons, a
tile of (ROWS, NEURONS) at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def slot_of(values, centre, half_width, BINS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The slot each value adds one to: below, the bins, above, NaN. IEEE float64, with no product before a sum that
    the compiler could fuse with it: the same bits as on a processor."""
    z = (values.to(tl.float64) - centre) / half_width
    within = tl.where((z >= -1.0) & (z <= 1.0), z, 0.0)
    place = tl.minimum(((within + 1.0) * (BINS * 0.5)).to(tl.int32), BINS - 1) + 1
    place = tl.where(z < -1.0, 0, place)
    place = tl.where(z > 1.0, BINS + 1, place)
    return tl.where(z != z, BINS + 2, place)


@triton.jit  # type: ignore[untyped-decorator]
def count_bins(  # type: ignore[no-untyped-def]
    activations,
    centre,
    half_width,
    slots,
    rows,
    neurons,
    sample_stride,
    row_stride,
    neuron_stride,
    BINS: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    """Adds to `slots` (neurons, BINS + 3) where they lie: a layer's slots fit the L2 cache, where atomics are made.

    Half the values of a rectified neuron are zeros, and adding to one address goes one by one: what falls in zero's
    slot is summed up in registers, and added once by each program.
    """
    chunks = tl.cdiv(rows, CHUNK)
    sample, first = tl.program_id(0) // chunks, tl.program_id(0) % chunks * CHUNK
    neuron = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    in_range = neuron < neurons
    middle = tl.load(centre + neuron, mask=in_range, other=0.0)
    half = tl.load(half_width + neuron, mask=in_range, other=1.0)
    own = slots + neuron.to(tl.int64) * (BINS + 3)
    of_zero = slot_of(tl.zeros((NEURONS,), tl.float64), middle, half, BINS)
    zeros = tl.zeros((ROWS, NEURONS), tl.int32)
    ones = tl.full((ROWS, NEURONS), 1, slots.dtype.element_ty)
    column = activations + sample.to(tl.int64) * sample_stride + neuron.to(tl.int64) * neuron_stride
    for start in range(first, min(first + CHUNK, rows), ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & in_range[None, :]
        values = tl.load(column[None, :] + row.to(tl.int64)[:, None] * row_stride, mask=mask, other=0.0)
        place = slot_of(values, middle[None, :], half[None, :], BINS)
        zero = place == of_zero[None, :]
        zeros += (zero & mask).to(tl.int32)
        tl.atomic_add(own[None, :] + place, ones, mask=mask & (place != of_zero[None, :]), sem="relaxed")
    tl.atomic_add(own + of_zero, tl.sum(zeros, 0).to(slots.dtype.element_ty), mask=in_range, sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator]
def position_means(  # type: ignore[no-untyped-def]
    activations,
    means,
    positions,
    neurons,
    sample_stride,
    position_stride,
    neuron_stride,
    AHEAD: tl.constexpr,
    NEURONS: tl.constexpr,
):
    """A lane adds up one neuron of one image, position after position, so the order never depends on the batch, its
    layout or the device; `AHEAD` loads are under way before the first of them is added."""
    sample = tl.program_id(0).to(tl.int64)
    neuron = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    in_range = neuron < neurons
    column = activations + sample * sample_stride + neuron.to(tl.int64) * neuron_stride
    total = tl.zeros((NEURONS,), tl.float64)
    for start in range(0, positions, AHEAD):
        for i in tl.static_range(AHEAD):
            position = tl.full((NEURONS,), start + i, tl.int32)
            value = tl.load(column + i * position_stride, mask=in_range & (position < positions), other=0.0)
            total += value.to(tl.float64)
        column += AHEAD * position_stride
    tl.store(means + sample * neurons + neuron, total / positions, mask=in_range)


@triton.jit  # type: ignore[untyped-decorator]
def extremes(  # type: ignore[no-untyped-def]
    activations,
    low,
    high,
    nonfinite,
    rows,
    neurons,
    sample_stride,
    row_stride,
    neuron_stride,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    chunks = tl.cdiv(rows, CHUNK)
    sample, first = tl.program_id(0) // chunks, tl.program_id(0) % chunks * CHUNK
    neuron = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    in_range = neuron < neurons
    lowest = tl.full((ROWS, NEURONS), float("inf"), tl.float32)
    highest = tl.full((ROWS, NEURONS), float("-inf"), tl.float32)
    bad = tl.zeros((ROWS, NEURONS), tl.int32)
    column = activations + sample.to(tl.int64) * sample_stride + neuron.to(tl.int64) * neuron_stride
    for start in range(first, min(first + CHUNK, rows), ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & in_range[None, :]
        values = tl.load(column[None, :] + row.to(tl.int64)[:, None] * row_stride, mask=mask, other=0.0)
        finite = tl.abs(values) < float("inf")
        bad += (mask & (finite == 0)).to(tl.int32)
        single = values.to(tl.float32) + 0.0  # no -0.0, which atomics of some versions hold for a negative number
        lowest = tl.minimum(lowest, tl.where(mask & finite, single, float("inf")))
        highest = tl.maximum(highest, tl.where(mask & finite, single, float("-inf")))
    tl.atomic_min(low + neuron, tl.min(lowest, 0), mask=in_range, sem="relaxed")
    tl.atomic_max(high + neuron, tl.max(highest, 0), mask=in_range, sem="relaxed")
    several = tl.sum(bad, 0)
    tl.atomic_add(nonfinite + neuron, several.to(tl.int64), mask=in_range & (several > 0), sem="relaxed")
