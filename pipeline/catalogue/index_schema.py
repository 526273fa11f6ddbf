"""What an index is made of: the one definition, by which an index is checked when it is read, and its JSON schema.

parse_index("s3://bucket/catalogue", b'{"format": 2, …}')["vdnas"][0]["images"]
json.loads(schema())["$defs"]["Row"]["required"]
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

import msgspec
from msgspec import Meta

from pipeline.errors import NEWER, UserError

FORMAT = 2
"""The index's format. Format 1 stands for catalogues without an index: they are read by listing their manifests."""
END = r"$(?!\n)"
"""The end of a text, in Python's regular expressions and in JavaScript's: Python's `$` allows a line feed behind it."""

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,127}}{END}")]
SHA256 = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{64}}{END}")]


class Record(TypedDict):
    """An object that never changes: where it lies below the catalogue's root, and its SHA-256."""

    path: str
    sha256: SHA256


class Version(TypedDict):
    """A version of a VDNA."""

    version: Positive
    created: str
    images: Count
    digest: SHA256
    manifest: Record


class SpecFacts(TypedDict):
    """What was measured, and how."""

    extractor: Name
    architecture: str
    weights: Annotated[
        str, Meta(description="SHA-256 of the parameters as loaded; or what a file of another program states.")
    ]
    preprocessing: str
    precision: str
    distributions: Annotated[list[str], Meta(min_length=1)]
    positions: NotRequired[dict[str, Literal["all", "mean"]]]
    ranges: Annotated[str, Meta(description="Id of the histogram axes; empty without histograms.")]
    network: str
    layers: Annotated[dict[str, Positive], Meta(description="Neurons of each layer, in network order.")]
    extractor_licence: NotRequired[str]


class Row(TypedDict):
    """The current version of a VDNA."""

    dataset: Name
    spec: Annotated[str, Meta(description="Key of `specs`.")]
    version: Positive
    description: NotRequired[str]
    licence: NotRequired[str]
    url: NotRequired[Annotated[str | list[str], Meta(description="Where the images were.")]]
    images: Count
    skipped: Count
    skipped_by_reason: NotRequired[dict[str, Count]]
    damaged_shards: NotRequired[Count]
    shards: NotRequired[Count]
    clamped_share: NotRequired[Annotated[float, Meta(ge=0, le=1)]]
    not_finite: NotRequired[Count]
    fingerprint: Annotated[str, Meta(description="Of the spec and the plan.")]
    digest: Annotated[SHA256, Meta(description="Of the contents: equal for equal images.")]
    created: str
    bytes: NotRequired[int | None]
    provenance: NotRequired[dict[str, Any]]
    program: NotRequired[str]
    group: Annotated[str, Meta(description="The Zarr group.")]
    manifest: Annotated[
        Record,
        Meta(description="Everything said of this version, the SHA-256 of every object of its group included."),
    ]
    versions: Annotated[list[Version], Meta(description="All versions, oldest first.")]
    thumbnails: NotRequired[Annotated[list[str], Meta(description="Sample pictures, where the licence allows.")]]


class MatrixRow(TypedDict):
    """The distances between VDNAs of one spec."""

    spec: str
    members: Annotated[list[Count], Meta(description="Rows of `vdnas`, in the matrix's order.")]
    group: str
    manifest: Record
    metrics: list[Literal["emd", "nfd", "fd"]]
    units: dict[str, str]
    created: str


class Index(TypedDict):
    """An index."""

    format: Literal[2]
    created: Annotated[str, Meta(description="When the newest of its VDNAs and matrices was made, ISO 8601.")]
    program: str
    specs: Annotated[dict[str, SpecFacts], Meta(description="What was measured, and how, by spec id.")]
    vdnas: Annotated[list[Row], Meta(description="The current version of each VDNA.")]
    matrices: list[MatrixRow]


class _AnyFormat(TypedDict):
    format: int


_index, _any_format = msgspec.json.Decoder(Index), msgspec.json.Decoder(_AnyFormat)


def parse_index(url: str, text: bytes) -> dict[str, Any]:
    """The index of the catalogue at a URL, from its JSON; keys that are not known are left out.

    Raises `ValueError` that says what is not as it should be, and where; `UserError` if it is of a later format.
    """
    try:
        index = _index.decode(text)
    except msgspec.ValidationError:
        if _any_format.decode(text)["format"] > FORMAT:
            raise UserError(f"catalogue={url}: {NEWER}") from None
        raise
    for row in (*index["vdnas"], *index["matrices"]):
        if row["spec"] not in index["specs"]:
            raise ValueError(f"it has no spec {row['spec'][:99]!r}, which a row names")
    for matrix in index["matrices"]:
        members = matrix["members"]
        if max(members, default=0) >= len(index["vdnas"]):
            raise ValueError(f"a matrix names row {max(members)} of {len(index['vdnas'])}")
        if len({index["vdnas"][place]["dataset"] for place in members}) < len(members):
            raise ValueError("a matrix has a dataset twice")
    return cast(dict[str, Any], index)


def schema() -> bytes:
    """The JSON schema of an index."""
    generated = msgspec.json.schema(Index)
    header = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Index of a VDNA catalogue, format {FORMAT}",
        "description": "What catalogue.json names under `index`, gzipped. Paths are relative to the folder of "
        "catalogue.json. Readers pass over keys they do not know.",
    }
    return json.dumps({**header, **generated}, indent=1).encode() + b"\n"
