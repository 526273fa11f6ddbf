"""FID: the same as pytorch-fid's and torch-fidelity's from the same images and (untrained) weights, and their files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from distributions import VDNA, ShardRecord, Spec, fd
from extractors import build
from pipeline import make_vdna
from pipeline.catalogue import open_catalogue
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.config.networks import named_extractor
from pipeline.errors import UserError
from pipeline.formats import fid_files
from tests.helpers.material import FACTS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_fid.fid_score
    import pytorch_fid.inception
    import torch_fidelity
    from vdna.utils.im import ResizeDataset

pytestmark = [
    pytest.mark.filterwarnings("ignore:Matrix is"),  # fewer images than neurons, in their square root
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
IMAGES, BATCH = 12, 8
HEIGHT, WIDTH = 150, 200


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Crops of one size out of real pictures."""
    made = []
    draw = np.random.default_rng(0)
    for names in (("chelsea", "coffee"), ("astronaut", "rocket")):
        folder = tmp_path_factory.mktemp(names[0])
        for index in range(IMAGES):
            picture = getattr(skimage.data, names[index % 2])()
            top, left = draw.integers(0, picture.shape[0] - HEIGHT), draw.integers(0, picture.shape[1] - WIDTH)
            crop = picture[top : top + HEIGHT, left : left + WIDTH]
            Image.fromarray(np.ascontiguousarray(crop)).save(folder / f"{index:03}.png")
        made.append(folder)
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as pytorch-fid's, with parameters that let every image differ."""
    torch.manual_seed(0)
    network = build(named_extractor("inception", weights="random", without=())).model
    state = network.state_dict()
    for name, tensor in state.items():
        if tensor.ndim == 4:
            torch.nn.init.normal_(tensor, std=(2 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("bn.weight", "running_var")):
            tensor.uniform_(0.8, 1.2)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path


@contextmanager
def their_network(weights: Path, block: int = 3, **options: bool) -> Iterator[torch.nn.Module]:
    module = pytorch_fid.inception
    before = module.load_state_dict_from_url
    module.load_state_dict_from_url = lambda *a, **k: torch.load(weights, weights_only=True)
    try:
        yield module.InceptionV3([block], **options).eval()
    finally:
        module.load_state_dict_from_url = before


def ours(folder: Path, weights: Path, layer: str = "avgpool", **preprocess: object) -> VDNA:
    return make_vdna(
        folder,
        "inception",
        ["layer-gaussian"],
        weights=str(weights),
        layers={"block_3": layer},
        preprocess=preprocess,
    )


def test_pytorch_fids_way(folders: list[Path], weights: Path, tmp_path: Path) -> None:
    """Its bilinear resize inside the network, and its statistics files both ways."""
    theirs = []
    with their_network(weights) as network:
        for folder in folders:
            files = sorted(map(str, folder.iterdir()))
            statistics = pytorch_fid.fid_score.calculate_activation_statistics(files, network, BATCH, 2048, "cpu", 0)
            theirs.append(statistics)
    expected = pytorch_fid.fid_score.calculate_frechet_distance(*theirs[0], *theirs[1])
    mine = [ours(folder, weights, resize="legacy_pytorch") for folder in folders]
    assert fd(*mine) == pytest.approx(expected, rel=1e-4)
    np.savez(tmp_path / "theirs.npz", mu=theirs[1][0], sigma=theirs[1][1])
    published = fid_files.read(tmp_path / "theirs.npz", images=IMAGES)
    assert fd(mine[0], published, layer="block_3") == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match=r"no such file"):
        fid_files.read(tmp_path / "none.npz", 2)
    written = fid_files.write(mine[0], tmp_path / "ours")
    with np.load(written) as file:
        np.testing.assert_allclose(file["mu"], theirs[0][0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(file["sigma"], theirs[0][1], rtol=1e-4, atol=1e-4)
        first, theirs_first, second = (
            (mu[:256], sigma[:256, :256]) for mu, sigma in ((file["mu"], file["sigma"]), *theirs)
        )
    again = pytorch_fid.fid_score.calculate_frechet_distance(*first, *second)
    assert again == pytest.approx(pytorch_fid.fid_score.calculate_frechet_distance(*theirs_first, *second), rel=1e-4)


@pytest.mark.parametrize("half", [0.5, 128 / 255], ids=["seed", "clean-fid"])
def test_the_clean_way(folders: list[Path], weights: Path, half: float) -> None:
    """Pictures resized as clean-fid and the vdna library do, normalised as either, in pytorch-fid's network.

    FID's layer of 768 neurons: the square root of 2,048 takes twenty times as long.
    """
    theirs = []
    with their_network(weights, block=2, resize_input=False, normalize_input=False) as network, torch.no_grad():
        for folder in folders:
            files = sorted(map(str, folder.iterdir()))
            resized = ResizeDataset(files, size=(299, 299), norm_mean=[half] * 3, norm_std=[half] * 3)
            parts = [range(k, min(k + BATCH, IMAGES)) for k in range(0, IMAGES, BATCH)]
            features = [network(torch.stack([resized[i] for i in part]))[0] for part in parts]
            theirs.append(torch.cat(features).mean((2, 3)).double().numpy())
    (m1, s1), (m2, s2) = ((a.mean(0), np.cov(a, rowvar=False)) for a in theirs)
    expected = pytorch_fid.fid_score.calculate_frechet_distance(m1, s1, m2, s2)
    mine = [ours(folder, weights, "Mixed_6e", mean=[half] * 3, std=[half] * 3) for folder in folders]
    assert fd(*mine) == pytest.approx(expected, rel=1e-4)


def test_torch_fidelitys_way(folders: list[Path], weights: Path) -> None:
    """TensorFlow 1's resize, and (x - 128) / 128 for the normalisation. The layer of 768 neurons, as above."""
    expected = torch_fidelity.calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        fid=True,
        feature_layer_fid="768",
        cuda=False,
        verbose=False,
        batch_size=BATCH,
        cache=False,
        save_cpu_ram=True,
        feature_extractor_weights_path=str(weights),
    )["frechet_inception_distance"]
    halves = [128 / 255] * 3
    mine = [
        ours(folder, weights, "Mixed_6e", resize="legacy_tensorflow", mean=halves, std=halves) for folder in folders
    ]
    assert fd(*mine) == pytest.approx(expected, rel=1e-4)


def test_from_the_same_activations() -> None:
    draw, images, neurons = np.random.default_rng(0), 600, 256
    mixing = draw.standard_normal((neurons, neurons)) / 14
    features = [(draw.standard_normal((images, neurons)) @ mixing + shift).astype(np.float32) for shift in (0.0, 0.1)]
    mine = []
    for number, values in enumerate(features):
        vdna = VDNA(Spec("inception", "a", "w", "p", "fp32", {"block_3": neurons}, ("layer-gaussian",)))
        for part in torch.from_numpy(values).unsqueeze(1).split(100):
            vdna.update("block_3", part)
        vdna.ledger.add(ShardRecord(f"shard-{number}", counted=images))
        mine.append(vdna)
    (m1, s1), (m2, s2) = ((a.mean(0, dtype=np.float64), np.cov(a.astype(np.float64), rowvar=False)) for a in features)
    expected = pytorch_fid.fid_score.calculate_frechet_distance(m1, s1, m2, s2)
    assert fd(*mine) == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def statistics(tmp_path: Path) -> Path:
    draw = np.random.default_rng(1)
    values = draw.standard_normal((100, 12))
    np.savez(tmp_path / "fid.npz", mu=values.mean(0), sigma=np.cov(values, rowvar=False))
    return tmp_path / "fid.npz"


def test_on_the_command_line(
    statistics: Path, tmp_path: Path, filled: Callable[..., VDNA], capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = ["--catalogue", str(tmp_path / "cat")]
    bring = [*catalogue, "import", str(statistics), "--name", "published", "--format", "fid", "--layer", "b"]
    assert main(bring) == 2
    assert "give --images N" in capsys.readouterr().err
    assert main([*bring, "--images", "100"]) == 0
    vdna = open_catalogue(catalogue[1]).vdna("published", "inception")
    assert vdna.images == 100
    out = str(tmp_path / "back")
    assert main([*catalogue, "export", "published", "inception", out, "--format", "fid", "--layer", "b"]) == 0
    with np.load(f"{out}.npz") as back, np.load(statistics) as first:
        np.testing.assert_allclose(back["mu"], first["mu"], rtol=1e-12)
        np.testing.assert_allclose(back["sigma"], first["sigma"], rtol=1e-12)
    assert main([*catalogue, "export", "published", "inception", out, "--format", "fid"]) == 2
    assert "--layer block_3: this VDNA has b" in capsys.readouterr().err
    store = Store(catalogue[1])
    store.put_vdna(filled(1, distributions=("gaussian",), ranges=None), "mine", FACTS)
    publish(store)
    assert main([*catalogue, "export", "mine", "net", out, "--format", "fid"]) == 2
    assert "--format fid needs layer-gaussian" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": np.zeros((2, 2))}, "mu has the shape"),
        ({"mu": np.full(12, np.nan)}, "not finite"),
        ({"sigma": np.zeros((3, 3))}, "sigma is float64"),
        ({"sigma": np.triu(np.ones((12, 12)))}, "not a covariance"),
        ({"sigma": -np.eye(12)}, "not a covariance"),
        ({"sigma": np.eye(12) + 30 * np.eye(12, k=1) + 30 * np.eye(12, k=-1)}, "not positive semi-definite"),
        ({"mu": np.full(12, 1e300)}, "not the numbers of a network"),
        ({"mu": np.zeros(1 << 20)}, "no FID statistics"),
        ({"mu": np.array(["x"] * 12)}, "no FID statistics"),
    ],
)
def test_what_is_no_statistics(statistics: Path, change: dict[str, np.ndarray], message: str) -> None:
    with np.load(statistics) as file:
        arrays = {**file, **change}
    np.savez(statistics, **arrays)
    with pytest.raises(UserError, match=message):
        fid_files.read(statistics, 100)


def test_only_what_is_not_stated_is_taken_on_trust(statistics: Path) -> None:
    published = fid_files.read(statistics, 100, layer="b")
    mine = VDNA(Spec("other", "a", "w", "p", "fp32", {"b": 12}, ("layer-gaussian",)))
    with pytest.raises(ValueError, match="extractor: inception and other"):
        fd(published, mine, layer="b")
    more = VDNA(Spec("inception", "a", "w", "p", "fp32", {"a": 3, "b": 12}, ("layer-gaussian",)))
    with pytest.raises(ValueError, match="a neuron has no mean"):
        fd(published, more, layer="b")
    for layer, neurons in more.spec.layers.items():
        more.update(layer, torch.zeros(2, 1, neurons))
    assert fd(published, more, layer="b") > 0
    with pytest.raises(ValueError, match="layers: only the second has a"):
        fd(published, more)
