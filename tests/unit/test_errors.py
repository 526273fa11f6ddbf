"""One root for the exceptions of the three packages, and one class for a layer that does not exist."""

from __future__ import annotations

import ast
import builtins
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distributions import VDNA, Gaussian, UnknownLayerError, VDNAError, emd
from distributions.comparison import compare
from extractors import ExtractorError, LayerError
from extractors.errors import FetchError, Refused, WebError
from extractors.layers import choose, tokens_of
from pipeline.errors import DamagedError, LayerUserError, UserError
from pipeline.formats import fid_files
from tests.helpers.commands import ROOT

ENDING = {"Terminated"}
"""Ends the process, as a signal asks: it must not be caught as an error."""


def bases_by_class() -> dict[str, set[str]]:
    bases: dict[str, set[str]] = {}
    for package in ("distributions", "extractors", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    names = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                    bases[node.name] = bases.get(node.name, set()) | names
    return bases


def test_every_public_exception_has_the_root() -> None:
    bases = bases_by_class()

    def ancestors(name: str) -> set[str]:
        return {name}.union(*(ancestors(base) for base in bases.get(name, set())))

    builtin = {name for name, kind in vars(builtins).items() if isinstance(kind, type)}
    exceptions = {name for name in builtin if issubclass(getattr(builtins, name), BaseException)}
    ours = {name for name in bases if ancestors(name) & exceptions and not name.startswith("_")} - ENDING
    assert {"IncompatibleError", "UserError", "DamagedError", "WeightsError", "FetchError", "WebError"} < ours
    assert [name for name in sorted(ours) if "VDNAError" not in ancestors(name)] == []


def small() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ValueError, lambda v: emd(v, v, layer="third")),
        (ValueError, lambda v: v.histogram("third")),
        (ValueError, lambda v: v.update("third", torch.zeros(1, 1, 3))),
        (ValueError, lambda v: compare(v, v, layers=["third"])),
        (ValueError, lambda v: Gaussian({"first": 1}).update("third", torch.zeros(1, 1, 1))),
        (LayerError, lambda v: choose(small(), ["third"])),
        (LayerError, lambda v: tokens_of({"0": "0"}, {"third": "mean"}, ["0"], None, False)),
        (UserError, lambda v: fid_files.write(v, Path("x.npz"), "third")),
    ],
)
def test_an_unknown_layer_is_one_kind_of_mistake(
    filled: Callable[..., VDNA], kind: type[Exception], wrong: Callable[[VDNA], object]
) -> None:
    with pytest.raises(UnknownLayerError, match="third") as caught:
        wrong(filled(1))
    assert isinstance(caught.value, kind)


@pytest.mark.parametrize("kind", [WebError, Refused, FetchError, LayerUserError, DamagedError])
def test_errors_travel_between_processes(kind: type[VDNAError]) -> None:
    back = pickle.loads(pickle.dumps(kind("a")))  # noqa: S301
    assert (type(back), str(back)) == (kind, "a")


def test_former_except_clauses_still_catch() -> None:
    assert issubclass(ExtractorError, ValueError)
    assert issubclass(WebError, OSError)
    assert issubclass(FetchError, OSError)
    assert FetchError(2, "gone").errno == 2
    assert not issubclass(UserError, ValueError)
