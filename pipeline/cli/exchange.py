"""Export a VDNA of a catalogue to files of other programs, and import such files into a catalogue."""

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
from pipeline.storage.disk import expand_home


def export_vdna(vdna: VDNA, out: str, form: str, distribution: str, layer: str) -> list[str]:
    """Write a VDNA as files of another program, and return their paths or URLs.

    Args:
        out: a path without an ending, or `hf:[datasets/]OWNER/NAME/FILE` for a repository of the hub.
        form: "vdna" for files of the vdna library with `distribution`, or "fid" for FID statistics of `layer`.
    """
    with tempfile.TemporaryDirectory() as folder:
        to_hub = out.startswith(hub.HUB)
        path = Path(folder) / (out.rpartition("/")[2] or "nameless") if to_hub else Path(out)
        files = [fid_files.write(vdna, path, layer)] if form == "fid" else vdna_files.write(vdna, path, distribution)
        return hub.publish(files, out) if to_hub else list(map(str, files))


def import_vdna(options: argparse.Namespace) -> None:
    """Add a VDNA from files of another program to a catalogue, and publish the catalogue.

    `options` are those of the command `import`. Raises `UserError` if they do not fit each other or the files.
    """
    if not NAME.fullmatch(options.name):
        raise UserError(
            f"--name {options.name}: use letters, digits, '.', '_' and '-' (at most 128), it names a folder"
        )
    if options.format == "fid":
        if options.ranges:
            raise UserError("--ranges: statistics of FID have no histograms")
        if options.images is None:
            raise UserError("--format fid: the file does not say of how many images it is; give --images N")
        vdna = fid_files.read(hub.local(options.file), options.images, options.extractor, options.layer)
    else:
        if options.images is not None:
            raise UserError("--images: these files say it themselves; with --format fid they do not")
        axes = vdna_files.read_ranges(options.ranges) if options.ranges else None
        vdna = vdna_files.read(hub.local(options.file, ("json", "npz")), axes)
    facts = {
        "fingerprint": vdna.digest()[:16],
        "url": options.file,
        "description": f"imported from {options.file.rpartition('/')[2]}",
        "licence": "",
        "extractor_licence": "",
        "provenance": {"imported": [f"{options.format} files"]},
    }
    store = CatalogueWriter(options.catalogue, options.storage)
    store.put_vdna(vdna, options.name, facts)
    while publish(store):  # another run may publish meanwhile
        pass


def write_ranges(view: View, out: str) -> None:
    """Write the histogram axes of a VDNA as a file of the vdna library. Raises `UserError` if it has no histogram."""
    if view.spec.ranges is None:
        raise UserError("this VDNA has no histogram, whose axes these would be")
    path = expand_home(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(view.spec.ranges.to_vdna_json())
