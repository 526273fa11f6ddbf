"""The laws that every distribution keeps, as checks for the tests of a distribution of your own.

A distribution is a commutative monoid under `merge`, with the empty distribution as its neutral element, and does not
depend on how images are grouped into batches. The pipeline relies on that. Try the laws with pytest:

    import pytest
    from distributions import Gaussian

    CASE = Case(make=lambda layers: Gaussian(layers), batches=random_batches({"a": 5, "b": 3}), exact=("count",))

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    def test_law(law):
        law(CASE)

or with `check_laws(CASE)` elsewhere. A law that does not hold raises `AssertionError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from distributions.base import Distribution, State
from distributions.errors import IncompatibleError, UnknownLayerError

Batches = Mapping[str, torch.Tensor]
"""The activations of a batch of images by layer, (samples, positions, neurons) each."""


@dataclass(frozen=True)
class Case:
    """A kind of distribution, and the data that its laws are tried on.

    `make` returns an empty distribution for `{layer: neurons}`, with the same parameters at every call. `batches` are
    at least three batches that differ, of one set of layers. `exact` names the arrays of `state` that are equal bit for
    bit however the images are grouped; others are compared within `tolerance`, relative and absolute.
    """

    make: Callable[[Mapping[str, int]], Distribution]
    batches: Sequence[Batches]
    exact: Collection[str] = ()
    tolerance: float = 1e-12

    def __post_init__(self) -> None:
        if len(self.batches) < 3:
            raise ValueError(f"the laws need three batches, got {len(self.batches)}")

    @property
    def layers(self) -> dict[str, int]:
        """`{layer: neurons}` of the batches."""
        return {layer: batch.shape[2] for layer, batch in self.batches[0].items()}

    def empty(self) -> Distribution:
        """A distribution that has seen nothing."""
        return self.make(self.layers)

    def filled(self, *numbers: int) -> Distribution:
        """A distribution that has seen the batches of these numbers, in this order."""
        distribution = self.empty()
        for number in numbers:
            for layer, batch in self.batches[number].items():
                distribution.update(layer, batch)
        return distribution

    def assert_equal(self, a: Distribution, b: Distribution, bits: bool = False) -> None:
        """Raise `AssertionError` unless the states of two distributions are equal; `bits`: bit for bit."""
        left, right = a.state(), b.state()
        _hold(left.keys() == right.keys() == a.dims.keys(), f"state has {[*left]} and {[*right]}, dims {[*a.dims]}")
        for name in left:
            if bits or name in self.exact:
                np.testing.assert_array_equal(left[name], right[name], err_msg=name)
            else:
                np.testing.assert_allclose(left[name], right[name], self.tolerance, self.tolerance, err_msg=name)


def random_batches(layers: Mapping[str, int], samples: int = 6, positions: int = 4, number: int = 3) -> list[Batches]:
    """Batches of standard normal activations, the same at every call."""
    draw = torch.Generator().manual_seed(0)
    return [{k: torch.randn(samples, positions, n, generator=draw) for k, n in layers.items()} for _ in range(number)]


def state_depends_on_the_data(case: Case) -> None:
    """Two batches give different states. The other laws would hold for a distribution that ignored its data."""
    a, b, empty = case.filled(0).state(), case.filled(1).state(), case.empty().state()
    _hold(any((a[name] != b[name]).any() for name in a), "two different batches have one state")
    _hold(any((a[name] != empty[name]).any() for name in a), "a batch has the state of an empty distribution")


def empty_is_neutral(case: Case) -> None:
    """Merging with an empty distribution, on either side, changes no bit."""
    filled, left, right = case.filled(0, 1), case.empty(), case.filled(0, 1)
    left.merge(filled)
    right.merge(case.empty())
    case.assert_equal(left, filled, bits=True)
    case.assert_equal(right, filled, bits=True)


def merging_many_leaves_the_first_unchanged(case: Case) -> None:
    """Distributions merged one by one into an empty one give the whole, and the first of them stays as it was."""
    first, total = case.filled(0), case.empty()
    before = _copied(first.state())
    for part in (first, case.filled(1), case.filled(2)):
        total.merge(part)
    _assert_unchanged(first.state(), before)
    case.assert_equal(total, case.filled(0, 1, 2))


def splits_agree(case: Case, sizes: Sequence[int] = (1, 2, 4)) -> None:
    """A batch that is split into smaller ones of any size gives the same state."""
    for size in sizes:
        split = case.empty()
        for layer, batch in case.batches[0].items():
            for part in batch.split(size):  # type: ignore[no-untyped-call]
                split.update(layer, part)
        case.assert_equal(split, case.filled(0))


def strides_do_not_matter(case: Case) -> None:
    """Transposed and strided views count like contiguous arrays: a CNN's activations and a choice of tokens are such
    views."""
    views: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
        lambda a: a.transpose(1, 2).contiguous().transpose(1, 2),
        lambda a: torch.stack([a, a + 1], dim=2)[:, :, 0],
        lambda a: a.flip(0).flip(0),
    )
    for view in views:
        distribution = case.empty()
        for layer, batch in case.batches[0].items():
            distribution.update(layer, view(batch))
        case.assert_equal(distribution, case.filled(0))


def merging_is_commutative(case: Case) -> None:
    """a merged with b equals b merged with a."""
    ab, ba = case.filled(0), case.filled(1)
    ab.merge(case.filled(1))
    ba.merge(case.filled(0))
    case.assert_equal(ab, ba)


def merging_is_associative(case: Case) -> None:
    """(a merged with b) merged with c equals a merged with (b merged with c)."""
    left, right, tail = case.filled(0), case.filled(0), case.filled(1)
    left.merge(case.filled(1))
    left.merge(case.filled(2))
    tail.merge(case.filled(2))
    right.merge(tail)
    case.assert_equal(left, right)


def merging_neither_changes_nor_aliases_its_argument(case: Case) -> None:
    """After `a.merge(b)`, b is as it was, and stays so when a is updated."""
    a, b = case.filled(0), case.filled(1)
    before = _copied(b.state())
    a.merge(b)
    for layer, batch in case.batches[2].items():
        a.update(layer, batch)
    _assert_unchanged(b.state(), before)


def state_is_a_copy(case: Case) -> None:
    """Writing to the arrays of a state does not change the distribution."""
    a = case.filled(0)
    before = _copied(a.state())
    for array in a.state().values():
        array[...] = 0
    _assert_unchanged(a.state(), before)


def state_can_be_loaded(case: Case) -> None:
    """A distribution that loads a state is equal bit for bit, and keeps none of the arrays."""
    restored, state = case.empty(), case.filled(0, 1).state()
    restored.load(state)
    case.assert_equal(restored, case.filled(0, 1), bits=True)
    for array in state.values():
        array[...] = 0
    case.assert_equal(restored, case.filled(0, 1), bits=True)


def wrong_states_are_refused(case: Case) -> None:
    """A state with an array missing or of another shape raises `IncompatibleError`, which names the array."""
    state = case.filled(0).state()
    name = next(iter(state))
    _refused(IncompatibleError, name, lambda: case.empty().load({**state, name: state[name][:-1]}))
    _refused(IncompatibleError, name, lambda: case.empty().load({k: v for k, v in state.items() if k != name}))


def other_layers_are_refused(case: Case) -> None:
    """Merging a distribution of other layers raises `IncompatibleError`."""
    *first, last = case.layers
    other = case.make({**{layer: case.layers[layer] for layer in first}, f"not {last}": case.layers[last]})
    _refused(IncompatibleError, "layers", lambda: case.empty().merge(other))


def wrong_batches_are_refused(case: Case) -> None:
    """An unknown layer raises `UnknownLayerError`, which names the layers; a wrong shape raises `ValueError`."""
    layer, neurons = next(iter(case.layers.items()))
    wrong = torch.zeros(1, 1, neurons + 1)
    names = re.escape(f"unknown layer 'no layer'; layers: {', '.join(case.layers)}")
    _refused(UnknownLayerError, names, lambda: case.empty().update("no layer", wrong))
    _refused(ValueError, rf"expects \(samples, positions, {neurons}\)", lambda: case.empty().update(layer, wrong))
    _refused(ValueError, rf"expects \(samples, positions, {neurons}\)", lambda: case.empty().update(layer, wrong[0]))


def devices_agree(case: Case, other: Distribution, device: torch.device | str) -> None:
    """`other`, an empty distribution of the same kind on another device, gives the same state, and can be merged into
    one that is not there."""
    for layer, batch in case.batches[0].items():
        other.update(layer, batch.to(device))
    case.assert_equal(other, case.filled(0))
    merged = case.empty()
    merged.merge(other)
    case.assert_equal(merged, case.filled(0))


LAWS: tuple[Callable[[Case], None], ...] = (
    state_depends_on_the_data,
    empty_is_neutral,
    merging_many_leaves_the_first_unchanged,
    splits_agree,
    strides_do_not_matter,
    merging_is_commutative,
    merging_is_associative,
    merging_neither_changes_nor_aliases_its_argument,
    state_is_a_copy,
    state_can_be_loaded,
    wrong_states_are_refused,
    other_layers_are_refused,
    wrong_batches_are_refused,
)
"""The laws that need one device; `devices_agree` needs another one."""


def check_laws(case: Case) -> None:
    """Try all of `LAWS`. Raises `AssertionError` at the first that does not hold."""
    for law in LAWS:
        law(case)


def _hold(condition: bool, otherwise: str) -> None:
    if not condition:  # not an assert statement, which python -O leaves out
        raise AssertionError(otherwise)


def _copied(state: State) -> State:
    return {name: array.copy() for name, array in state.items()}


def _assert_unchanged(state: State, before: State) -> None:
    for name, array in state.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def _refused(kind: type[Exception], words: str, action: Callable[[], object]) -> None:
    try:
        action()
    except kind as error:
        _hold(re.search(words, str(error)) is not None, f"{kind.__name__} should say {words!r}, and says: {error}")
    except Exception as error:
        raise AssertionError(f"{kind.__name__} should be raised, not {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{kind.__name__} should be raised")
