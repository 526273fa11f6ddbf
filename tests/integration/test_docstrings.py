"""Every example in a docstring runs.

An example is a paragraph of a docstring that is Python. The examples of one docstring run one after the other, with the
names of its module and the material of `material()`; what a module's examples take for granted beside these is in
`BEFORE`. What cannot run here is in `NOT_RUN`, with the reason.
"""

from __future__ import annotations

import ast
import importlib
import io
import shutil
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from distributions import VDNA, Ranges, ShardRecord, Spec
from pipeline import make_vdna, open_catalogue
from pipeline.catalogue.writer import Store
from pipeline.data.discovery import find
from pipeline.data.readers import ShardReader
from tests.integration.test_examples import here, place, store_vdna  # noqa: F401  (fixtures)

ROOT = Path(__file__).resolve().parents[2]


class Example(NamedTuple):
    module: str
    name: str
    text: str


def examples() -> Iterator[Example]:
    for package in ("distributions", "extractors", "pipeline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for node in ast.walk(ast.parse(path.read_text())):
                documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                if documented and (text := code_of(ast.get_docstring(node) or "")):
                    yield Example(module, getattr(node, "name", ""), text)


def code_of(docstring: str) -> str:
    """The paragraphs that are Python and do something."""
    parts, start = [], 0
    paragraphs = docstring.split("\n\n")
    while start < len(paragraphs):
        # A blank line may stand within a block.
        for end in range(len(paragraphs), start, -1):
            text = textwrap.dedent("\n\n".join(paragraphs[start:end]))
            if is_code(text):
                parts.append(text)
                break
        start = end if parts and is_code(text) else start + 1
    return "\n".join(parts)


def is_code(text: str) -> bool:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    acts = ast.Call | ast.Assign | ast.Attribute | ast.Import | ast.ImportFrom
    return any(isinstance(node, acts) for node in ast.walk(tree))


EXAMPLES = list(examples())
LAYERS = {"block_0": 48, "blocks.6.0": 8}
SUBSTITUTES = {
    'Path("catalogue/': 'Path("files/',
    '"https://host/catalogue"': '"catalogue"',
    '"hf:datasets/OWNER/NAME"': '"repository"',
    '"s3://bucket/laion/{00000..00099}.tar"': '"shards/{00000..00001}.tar"',
    '"s3://bucket/000.tar"': '"shards/00000.tar"',
    '"s3://bucket/list.txt"': '"list.txt"',
    '"s3://bucket/public"': '"public"',
    '"s3://bucket/catalogue"': '"written"',
    '"photos/*.jpg"': '"photos/*.png"',
    'device("cuda")': 'device("cpu")',
    '"cuda")': '"cpu")',
    "threads=8": "threads=1",
    "VDNAProcessor().": "VDNAProcessor(axes).",
    '"mugs_vit_base"': '"efficientnet_lite0"',
    '("classifier",))': '("classifier",), weights="random")',
    'among("emd", layers=["norm"])': 'among("emd", layers=["blocks.6.0"])',
    'Path("out/digits"), "histogram-1000")': 'Path("out/digits"), "histogram-20")',
    'entries["0.jpg"]': 'entries["0.png"]',
    "open_parquet(file)": "open_parquet(parquet)",
}
"""What stands in an example for things elsewhere, or takes long, and what is here in its place."""
NOT_RUN = {
    "pipeline.cli.runs": "starts Ray",
    "pipeline.data.loose": "an object of a store, which test_sources.py has",
    "pipeline.data.plan": "test_stages.py writes and reads plans",
    "pipeline.extraction.lanes": "test_lanes.py measures with lanes",
    "pipeline.extraction.sinks": "sketches a class; test_walk.py has one",
    "pipeline.extraction.walk": "test_walk.py walks",
    "pipeline.extraction.worker": "test_pipeline.py runs workers",
    "pipeline.matrix.assembling": "test_tiles.py assembles matrices",
    "pipeline.stages.context": "starts Ray",
    "extractors.download.files": "needs a network",
    "extractors.streams": "needs a GPU",
    "pipeline.cli.recipes": "goes on from the command's own configuration; test_recipes.py has that",
    "pipeline.cluster.actors": "starts Ray",
    "pipeline.cluster.ray_start": "starts Ray",
    "pipeline.cluster.scheduler": "starts Ray",
    "pipeline.storage.ahead": "sketches a protocol, which test_ahead.py implements",
    "pipeline.storage.hub": "needs the hub, of which test_publishing.py has one",
}
HYDRA = "from hydra import compose, initialize_config_dir\ninitialize_config_dir(str(CONF), version_base='1.3')"
NETWORK = (
    "from pipeline.data.plan import network_spec\nextractor = build(named_extractor('test_vit', weights='random'))"
)
PARQUET = """
import pyarrow, pyarrow.parquet
pyarrow.parquet.write_table(pyarrow.table({"image": [data] * 2}), "images.parquet")
"""
GROUP = """
import json
from pipeline.formats.datasets import to_dataset
from pipeline.formats.groups import pack
dataset = to_dataset(v, {})
objects = pack(dataset, consolidated=True)
"""
BEFORE = {
    "distributions.moments": "a, b = (d.state() for d in list(v.distributions.values())[1:3])\n"
    "count, mean, m2, comoment = a['count'][:48], a['mean'][:48], a['m2'][:48], b['comoment'][:48]",
    "extractors.base": "import hashlib",
    "pipeline.config.arguments": "import sys\nsys.argv = ['run', 'batch_size=2']",
    "pipeline.config.composition": "from pipeline.config.networks import CONF\n"
    "from hydra import initialize_config_dir\ninitialize_config_dir(str(CONF), version_base='1.3')\n"
    "cfg = compose('config', overrides=['dataset=demo_digits'])",
    "pipeline.storage.changes": "from pipeline.storage.folder import Folder\n"
    "store, make = Folder('changed'), lambda current: b''",
    "pipeline.storage.faults": "caught = OSError()",
    "distributions.axes": "from distributions import ActivationRanges",
    "distributions.base": "from distributions import Gaussian\nfirst = second = torch.randn(6, 4, 3)",
    "distributions.bounds": "from distributions.distances import cdf\nhistogram, bins = v.histogram('block_0'), 20\n"
    "sketches = np.stack([emd_sketch(cdf(histogram))] * 2)",
    "distributions.kernels": "centre = half_width = torch.ones(48)\nslots = torch.zeros(48, 23, dtype=torch.int64)",
    "distributions.kernels.factors": "s1 = s2 = np.eye(4)",
    "distributions.kernels.pairs": "counts = v.histogram('block_0')\nstack = torch.ones(2, 3, 4, dtype=torch.float64)",
    "distributions.plots": "from distributions.comparison import compare\ncomparison = compare(v, w)",
    "distributions.plots.cards": "from distributions.plots import of_view",
    "distributions.plots.comparisons": "from distributions.comparison import compare",
    "distributions.vdna": "partials = [v]",
    "distributions.view": "from distributions import emd",
    "extractors.download.web": "error = OSError()",
    "extractors.preprocess.device_decode": "import warnings\nwarnings.simplefilter('ignore')\n"
    "preprocess, files, keys = Preprocess(64, (0.5,) * 3, (0.5,) * 3, resize='device'), [data], ['a']",
    "pipeline.catalogue.card": "url, rows = 'catalogue', cat._rows",
    "pipeline.catalogue.copies": "from pipeline.catalogue.targets import target",
    "pipeline.catalogue.matrix": "stored = cat._matrix('efficientnet_lite0', 'emd')",
    "pipeline.catalogue.site_data": "distances = store.get_distances('efficientnet_lite0', manifest['spec'])",
    "pipeline.catalogue.sketches": "old = matrix = store.get_distances('efficientnet_lite0', manifest['spec'])\n"
    "members = [m for m in store.manifests() if m['spec'] == manifest['spec']]\n"
    "spec = cat.vdna('demo_digits', 'efficientnet_lite0').spec",
    "pipeline.catalogue.stored": "folder, manifest = small, small.manifests()[0]",
    "pipeline.catalogue.summary": "name = 'a'",
    "pipeline.compat.vdna": "import warnings\nwarnings.simplefilter('ignore')\n"
    "VDNAProcessor(axes).make_vdna('others', feat_extractor_name='efficientnet_lite0').save('others')",
    "pipeline.config.checks": "value, settings = 'cpu', {'batch_size': 2}",
    "pipeline.formats.chunks": f"{GROUP}meta = json.loads(objects['mean/zarr.json'])\n"
    "values = dataset['mean'].to_numpy()",
    "pipeline.formats.groups": GROUP,
    "pipeline.data.columns": f"{PARQUET}file = io.BytesIO(Path('images.parquet').read_bytes())\n"
    "table = pyarrow.parquet.ParquetFile('images.parquet')",
    "pipeline.data.indexed": f"{PARQUET}import shutil\nshutil.make_archive('zipped', 'zip', 'photos')\n"
    "file, parquet = (io.BytesIO(Path(name).read_bytes()) for name in ('zipped.zip', 'images.parquet'))",
    "pipeline.data.lists": "import fsspec\nfs = fsspec.filesystem('file')",
    "pipeline.data.orientation": "image = Image.fromarray(picture)",
    "pipeline.data.packed": "import hashlib\n"
    "file, digest = io.BytesIO(Path('shards/00000.tar').read_bytes()), hashlib.sha256()",
    "pipeline.data.shards": "shards = [shard]",
    "pipeline.data.tars": "file = io.BytesIO(Path('shards/00000.tar').read_bytes())",
    "pipeline.extraction.feed": "convert = lambda key, data: data",
    "pipeline.extraction.thumbnails": "from pipeline.data.plan import Plan\nfrom pipeline.data.shards import Task\n"
    "plan = Plan({'name': 'a'}, spec, (Task(0, (shard,)),))",
    "pipeline.formats.fid_files": "np.savez('cifar10_train.npz', mu=np.zeros(4), sigma=np.eye(4))\n"
    "from distributions import fd\nmine = read(Path('cifar10_train.npz'), images=6)",
    "pipeline.matrix.tiles": "members, new, store = small.manifests(), [0], small",
    "pipeline.measure.make": "from distributions import emd",
    "pipeline.storage.cache": "import hashlib\nsha256 = hashlib.sha256(data).hexdigest()",
    "pipeline.storage.clients": "options = {}",
    "pipeline.storage.folder": "page = b''",
    "pipeline.storage.objects": "options = {}",
}
"""What the examples of a module take for granted."""


@pytest.fixture(scope="module")
def material(place: Path) -> dict[str, Any]:  # noqa: F811
    """Names that examples use: small VDNAs and their parts, a picture, a shard, a catalogue and a network."""
    axes = Ranges(LAYERS, np.full(56, -3.0), np.full(56, 3.0))
    spec = Spec("net", "a", "w", "p", "fp32", LAYERS, ("histogram-20", "gaussian", "layer-gaussian"), axes)
    vdnas = []
    for _ in range(2):
        vdnas.append(VDNA(spec))
        for layer, neurons in LAYERS.items():
            vdnas[-1].update(layer, torch.randn(6, 4, neurons))
    v, w = vdnas
    picture = np.zeros((96, 96, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "JPEG")
    (place / "shards").mkdir()
    for number in range(2):
        with tarfile.open(place / "shards" / f"0000{number}.tar", "w") as tar:
            tar.add(place / "photos" / "0.png", "0.png")
    (place / "list.txt").write_text("photos/0.png\n")
    shutil.copytree(place / "photos", place / "others")
    with tarfile.open(place / "others.tar", "w") as tar:
        tar.add(place / "photos" / "0.png", "0.png")
    shutil.copy(place / "photos" / "0.png", place / "0.jpg")
    small, store = Store(str(place / "small")), Store(str(place / "catalogue"))
    for name, vdna in {"faces": v, "digits": w}.items():
        vdna.ledger.add(ShardRecord(name, size=1, counted=6, skipped={}))
        store_vdna(small, vdna, name)
    cat = open_catalogue(str(place / "catalogue"))
    manifest = cat.manifest("demo_digits", "efficientnet_lite0")
    model = timm.create_model("test_vit").eval()
    shard = find(str(place / "shards"))[0]
    return {
        **{"spec": spec, "v": v, "w": w, "vdna": v, "view": v, "other": w, "mine": w, "layers": LAYERS, "ranges": axes},
        **{
            "activations": torch.randn(6, 4, 48),
            "torch": torch,
            "np": np,
            "model": model,
            "images": torch.zeros(1, 3, 160, 160),
        },
        **{"run": lambda: model(torch.zeros(1, 3, 160, 160)), "picture": picture, "data": written.getvalue()},
        **{"array": picture, "distances": np.ones((2, 2)), "names": ["a", "b"], "cat": cat, "store": store},
        **{"folder": store, "manifest": manifest, "shard": shard, "make_vdna": make_vdna, "Path": Path},
        **{"readers": [ShardReader(shard)], "small": small, "Image": Image, "io": io},
        "axes": store.get_ranges(cat.vdna("demo_digits", "efficientnet_lite0").spec.network_id),
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e.module} {e.name}".strip())
def test_example(example: Example, material: dict[str, Any], here: Path) -> None:  # noqa: F811
    if example.module in NOT_RUN:
        return
    text = example.text
    for elsewhere, near in SUBSTITUTES.items():
        text = text.replace(elsewhere, near)
    names = {**material, **vars(importlib.import_module(example.module)), "__name__": "example"}
    try:
        exec(BEFORE.get(example.module, ""), names)
        exec(text, names)
    finally:
        GlobalHydra.instance().clear()


def test_what_is_listed_is_there() -> None:
    modules = {example.module for example in EXAMPLES}
    assert NOT_RUN.keys() <= modules
    assert BEFORE.keys() <= modules
    assert not [text for text in SUBSTITUTES if not any(text in example.text for example in EXAMPLES)]
    assert len(EXAMPLES) > 80
