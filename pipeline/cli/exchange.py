"""VDNAs as other programs' files, out of a catalogue and into one."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from distributions import VDNA, View
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import CatalogueWriter
from pipeline.errors import UserError
from pipeline.formats import fid_files, vdna_files
from pipeline.formats.manifests import NAME
from pipeline.storage import hub
from pipeline.storage.disk import named


def export(vdna: VDNA, out: str, form: str, distribution: str, layer: str) -> list[str]:
    """Write a VDNA as another program's files, here or in a repository of the hub; where."""
    with tempfile.TemporaryDirectory() as folder:
        afar = out.startswith(hub.HUB)
        path = Path(folder) / (out.rpartition("/")[2] or "nameless") if afar else Path(out)
        files = [fid_files.write(vdna, path, layer)] if form == "fid" else vdna_files.write(vdna, path, distribution)
        return hub.publish(files, out) if afar else list(map(str, files))


def bring(given: argparse.Namespace) -> None:
    """Add a VDNA from another program's files to a catalogue, and publish it."""
    if not NAME.fullmatch(given.name):
        raise UserError(f"--name {given.name}: use letters, digits, '.', '_' and '-' (at most 128), it names a folder")
    if given.format == "fid":
        if given.ranges:
            raise UserError("--ranges: statistics of FID have no histograms")
        if given.images is None:
            raise UserError("--format fid: the file does not say of how many images it is; give --images N")
        vdna = fid_files.read(hub.local(given.file), given.images, given.extractor, given.layer)
    else:
        if given.images is not None:
            raise UserError("--images: these files say it themselves; with --format fid they do not")
        axes = vdna_files.read_ranges(given.ranges) if given.ranges else None
        vdna = vdna_files.read(hub.local(given.file, ("json", "npz")), axes)
    facts = {
        "fingerprint": vdna.digest()[:16],
        "url": given.file,
        "description": f"imported from {given.file.rpartition('/')[2]}",
        "licence": "",
        "extractor_licence": "",
        "provenance": {"imported": [f"{given.format} files"]},
    }
    store = CatalogueWriter(given.catalogue, given.storage)
    store.put_vdna(vdna, given.name, facts)
    while publish(store):  # another may publish meanwhile
        pass


def write_ranges(view: View, out: str) -> None:
    """Write the histogram axes of a VDNA as the seed library has them."""
    if view.spec.ranges is None:
        raise UserError("this VDNA has no histogram, whose axes these would be")
    path = named(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(view.spec.ranges.to_vdna_json())
