import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small import Recording

from neuralef import features
from neuralef.backbones import ColourBackbone, available
from neuralef.config import Config
from neuralef.datasets.crops import crop_image
from neuralef.datasets.folder import FolderDataset
from neuralef.datasets.synthetic import SyntheticScenes
from neuralef.errors import InputError
from neuralef.features import extract, to_tensor

CONFIG = Config(image_size=32)
IMAGES = 2 * features.CHUNK + 3  # three chunks, the last one not full
SPEC = next(spec for spec in available() if spec.name == "colour_patches")


class Counting(ColourBackbone):
    """The colour backbone, counting the images it has seen; ``dies_after`` that many batches."""

    def __init__(self, dies_after=None):
        self.seen = []
        self.dies_after = dies_after
        super().__init__(SPEC)

    def forward(self, images, **keywords):
        if len(self.seen) == self.dies_after:
            raise KeyboardInterrupt
        self.seen.append(len(images))
        return super().forward(images, **keywords)


class Painted(SyntheticScenes):
    """Scenes that are painted once."""

    def __init__(self):
        super().__init__(train=IMAGES, val=2, size=(32, 40))
        self.painted = {}

    def image(self, image_id):
        if image_id not in self.painted:
            self.painted[image_id] = super().image(image_id)
        return self.painted[image_id]


@pytest.fixture(scope="module")
def many():
    return Painted()


def store_of(dataset, backbone, cache, config=CONFIG, split="train"):
    return extract(dataset, split, backbone, config, cache=cache, progress=False)


def folder_of(cache):
    (folder,) = (cache / "features").iterdir()
    return folder


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x04
    path.write_bytes(content)


def test_features_are_the_backbone_s_within_float16(scenes, store, colour_backbone):
    assert store.ids == tuple(scenes.ids("train"))
    for index, image_id in enumerate(store.ids):
        exact = colour_backbone(to_tensor(crop_image(scenes.image(image_id), 64)[None]))[0]
        torch.testing.assert_close(store.levels(slice(index, index + 1))[0], exact, rtol=2**-10, atol=1e-6)


def test_colours_are_the_photographs_at_patch_resolution(scenes, store):
    images = np.stack([crop_image(scenes.image(image_id), 64) for image_id in store.ids]) / 255
    # Bilinear sampling at the centre of an 8 x 8 patch is the mean of its four central pixels.
    centres = sum(images[:, row::8, column::8] for row in (3, 4) for column in (3, 4)) / 4
    np.testing.assert_allclose(store.colours(slice(None)).numpy(), centres, rtol=2**-10, atol=1e-4)


def test_shapes_and_types(store):
    assert len(store) == 6
    assert store.grid == (8, 8)
    assert store.crop_size == 64
    assert store.channels == (8, 8, 16)
    assert store.patches.dtype == store.patch_colours.dtype == np.float16
    assert store.levels(slice(0, 2)).shape == (2, 8, 8, 32)
    assert store.high(slice(0, 2)).shape == (2, 8, 8, 16)
    assert store.colours(slice(0, 2)).shape == (2, 8, 8, 3)
    assert store.extract_s > 0
    assert {store.levels(slice(0, 1)).dtype, store.high(slice(0, 1)).dtype, store.colours(slice(0, 1)).dtype} == {
        torch.float32
    }


def test_rows_may_be_chosen_in_any_order(store):
    chosen = np.array([4, 0, 2])
    assert torch.equal(store.levels(chosen), store.levels(slice(None))[chosen])
    assert torch.equal(store.high(chosen), store.levels(chosen)[..., -16:])
    assert torch.equal(store.colours(chosen), store.colours(slice(None))[chosen])


def test_what_is_read_can_be_changed_without_changing_the_store(store):
    before = store.levels(slice(0, 1))
    store.levels(slice(0, 1)).zero_()
    assert torch.equal(store.levels(slice(0, 1)), before)
    with pytest.raises(ValueError, match="read-only"):
        store.patches[0] = 0


def test_a_whole_store_is_not_computed_again(many, tmp_path):
    first, second = Counting(), Counting()
    computed = store_of(many, first, tmp_path)
    loaded = store_of(many, second, tmp_path)
    assert first.seen == [features.CHUNK, features.CHUNK, 3]
    assert second.seen == []
    assert loaded.key == computed.key
    np.testing.assert_array_equal(loaded.patches, computed.patches)
    assert (loaded.ids, loaded.channels, loaded.extract_s) == (computed.ids, computed.channels, computed.extract_s)


def test_a_whole_store_is_read_where_nothing_may_be_written(many, tmp_path, monkeypatch):
    computed = store_of(many, Counting(), tmp_path)

    def refuse(path, _):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(features, "locked", refuse)  # root may write anywhere, so permissions alone do not show it
    assert store_of(many, Counting(), tmp_path).key == computed.key
    with pytest.raises(PermissionError):
        store_of(many, Counting(), tmp_path / "other")


def test_a_disk_that_cannot_hold_the_features_is_named_before_anything_is_written(many, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="NEURALEF_CACHE"):
        store_of(many, Counting(), tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_disk_that_fills_later_is_named_when_an_extraction_continues(many, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        store_of(many, Counting(dies_after=1), tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"No space left on device: '.*patches\.npy'"):
        store_of(many, Counting(), tmp_path)
    monkeypatch.undo()
    resumed = Counting()
    store_of(many, resumed, tmp_path)
    assert sum(resumed.seen) == IMAGES - features.CHUNK


def test_a_file_system_that_reserves_nothing_is_written_to_all_the_same(many, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(features.os, "posix_fallocate", unsupported, raising=False)
    assert len(store_of(many, Counting(), tmp_path)) == IMAGES


@pytest.mark.parametrize(("every", "notes"), [(0, [0, 1, 2, 3, 3, 3]), (1000, [0, 3, 3])])
def test_what_is_done_is_noted_now_and_then(many, tmp_path, monkeypatch, every, notes):
    """Notes hold all ids: after every chunk, those of a million images would be terabytes."""
    noted = []
    monkeypatch.setattr(features, "write_json", lambda path, document: noted.append(len(document["chunks"])))
    monkeypatch.setattr(features, "SAVE_EVERY_S", every)
    store_of(many, Counting(), tmp_path)
    assert noted == notes  # the last two: when all chunks are done, and that the store is whole


def test_the_plan_of_a_store_is_known_without_it(many, tmp_path):
    backbone = Counting()
    plan = features.planned(many, "train", backbone, CONFIG)
    assert not backbone.seen
    store = store_of(many, backbone, tmp_path)
    assert {name: getattr(store, name) for name in vars(plan)} == vars(plan)
    assert len(plan) == len(store)


def test_the_cache_folder_is_the_one_of_the_environment(many, data_folder):
    key = extract(many, "val", Counting(), CONFIG, progress=False).key
    assert (data_folder / "cache" / "features" / key / "manifest.json").is_file()


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_killed_extraction_continues_after_the_last_whole_chunk(many, tmp_path, batches):
    whole = store_of(many, Counting(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        store_of(many, Counting(dies_after=batches), tmp_path / "killed")
    resumed = Counting()
    continued = store_of(many, resumed, tmp_path / "killed")
    assert sum(resumed.seen) == IMAGES - batches * features.CHUNK
    assert continued.key == whole.key
    assert continued.patches.tobytes() == whole.patches.tobytes()
    assert continued.patch_colours.tobytes() == whole.patch_colours.tobytes()
    assert continued.ids == whole.ids


def test_a_killed_extraction_leaves_no_store_that_counts_as_whole(many, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        store_of(many, Counting(dies_after=2), tmp_path)
    manifest = json.loads((folder_of(tmp_path) / "manifest.json").read_text())
    assert not manifest["complete"]
    assert len(manifest["chunks"]) == 2


@pytest.mark.parametrize("name", ["patches.npy", "colours.npy"])
def test_a_torn_chunk_of_an_unfinished_store_is_computed_again(many, tmp_path, name):
    whole = store_of(many, Counting(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        store_of(many, Counting(dies_after=2), tmp_path / "torn")
    path = folder_of(tmp_path / "torn") / name
    values = np.load(path, mmap_mode="r+")
    values[features.CHUNK + 1, 2, 2, 0] += 1  # in the second chunk
    values.flush()
    resumed = Counting()
    continued = store_of(many, resumed, tmp_path / "torn")
    assert resumed.seen == [features.CHUNK, 3]
    assert continued.patches.tobytes() == whole.patches.tobytes()
    assert continued.patch_colours.tobytes() == whole.patch_colours.tobytes()


def changed_crop(backbone, dataset):
    return backbone, dataset, replace(CONFIG, image_size=40), "train"


def changed_precision(backbone, dataset):
    return backbone, dataset, replace(CONFIG, precision="bfloat16"), "train"


def changed_split(backbone, dataset):
    return backbone, dataset, CONFIG, "val"


def changed_seed(backbone, dataset):
    return backbone, SyntheticScenes(train=IMAGES, val=2, size=(32, 40), seed=1), CONFIG, "train"


def changed_count(backbone, dataset):
    return backbone, SyntheticScenes(train=IMAGES - 1, val=2, size=(32, 40)), CONFIG, "train"


def changed_backbone(backbone, dataset):
    other = ColourBackbone(replace(SPEC, high_level="layer_norm"))
    return other, dataset, CONFIG, "train"


@pytest.mark.parametrize(
    "change", [changed_crop, changed_precision, changed_split, changed_seed, changed_count, changed_backbone]
)
def test_what_determines_the_features_determines_the_key(many, colour_backbone, tmp_path, change):
    base = store_of(many, colour_backbone, tmp_path)
    backbone, dataset, config, split = change(colour_backbone, many)
    other = store_of(dataset, backbone, tmp_path, config, split)
    assert other.key != base.key
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_what_does_not_determine_the_features_leaves_the_key(many, colour_backbone, tmp_path):
    config = Config(image_size=33, epochs=3, width=7, pixel_weight=0, kmeans_iterations=2)
    base = store_of(many, colour_backbone, tmp_path).key
    assert store_of(many, colour_backbone, tmp_path, config).key == base
    assert store_of(many, ColourBackbone(replace(SPEC, note="another")), tmp_path).key == base


@pytest.fixture
def photographs(tmp_path, scenes):
    """A folder data set of three images, the files of which a test may change."""
    folder = tmp_path / "photographs"
    for split in ("train", "val"):
        for name in ("one", "two", "three"):
            path = folder / "images" / split / f"{split}-{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scenes.image("train-000000")).save(path)
            label = folder / "labels" / split / path.name
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scenes.label("train-000000")).save(label)
    rows = [f"{index},{item.name},0,0,{index}" for index, item in enumerate(scenes.classes)]
    (folder / "classes.csv").write_text("\n".join(["id,name,red,green,blue", *rows]) + "\n")
    return folder


def key_of(folder, backbone, cache):
    return store_of(FolderDataset(folder), backbone, cache).key


def test_changed_bytes_of_an_image_change_the_key(photographs, colour_backbone, tmp_path):
    before = key_of(photographs, colour_backbone, tmp_path)
    path = photographs / "images" / "train" / "train-two.png"
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert key_of(photographs, colour_backbone, tmp_path) != before


def test_a_renamed_image_changes_the_key(photographs, colour_backbone, tmp_path):
    before = key_of(photographs, colour_backbone, tmp_path)
    for kind in ("images", "labels"):
        path = photographs / kind / "train" / "train-two.png"
        path.rename(path.with_name("train-four.png"))
    assert key_of(photographs, colour_backbone, tmp_path) != before


def test_labels_and_other_splits_leave_the_key(photographs, colour_backbone, tmp_path):
    before = key_of(photographs, colour_backbone, tmp_path)
    (photographs / "labels" / "train" / "train-two.png").write_bytes(b"noise")
    (photographs / "images" / "val" / "val-two.png").write_bytes(b"noise")
    assert key_of(photographs, colour_backbone, tmp_path) == before


def test_a_folder_that_has_moved_keeps_its_features(photographs, colour_backbone, tmp_path):
    before = key_of(photographs, colour_backbone, tmp_path)
    moved = photographs.rename(tmp_path / "elsewhere")
    assert key_of(moved, colour_backbone, tmp_path) == before


def test_a_damaged_image_is_named(photographs, colour_backbone, tmp_path):
    path = photographs / "images" / "train" / "train-two.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{path} is damaged"):
        key_of(photographs, colour_backbone, tmp_path)


def damaged(dataset, cache):
    folder = folder_of(cache)
    with pytest.raises(InputError, match=f"feature cache {folder} is corrupted; delete the folder"):
        store_of(dataset, Counting(), cache)


@pytest.mark.parametrize("name", ["patches.npy", "colours.npy"])
@pytest.mark.parametrize("position", [3, 30, 129, -2])
def test_any_changed_byte_of_a_whole_store_is_noticed(many, tmp_path, name, position):
    store_of(many, Counting(), tmp_path)
    flip(folder_of(tmp_path) / name, position)
    damaged(many, tmp_path)


@pytest.mark.parametrize("name", ["patches.npy", "colours.npy"])
@pytest.mark.parametrize(("written", "altered"), [(b"'<f2'", b"'<i2'"), (b"), }", b"(, }")])
def test_a_header_of_another_number_format_or_of_none_is_noticed(many, tmp_path, name, written, altered):
    store_of(many, Counting(), tmp_path)
    path = folder_of(tmp_path) / name
    path.write_bytes(path.read_bytes().replace(written, altered, 1))
    damaged(many, tmp_path)


@pytest.mark.parametrize("name", ["patches.npy", "colours.npy"])
@pytest.mark.parametrize("kept", [0, 50, 1000, -1, None])
def test_a_truncated_or_missing_array_of_a_whole_store_is_noticed(many, tmp_path, name, kept):
    store_of(many, Counting(), tmp_path)
    path = folder_of(tmp_path) / name
    content = path.read_bytes()
    path.unlink() if kept is None else path.write_bytes(content[:kept])
    damaged(many, tmp_path)


@pytest.mark.parametrize("name", ["patches.npy", "colours.npy"])
@pytest.mark.parametrize("kept", [0, None])
def test_an_unfinished_store_without_its_arrays_is_noticed(many, tmp_path, name, kept):
    with pytest.raises(KeyboardInterrupt):
        store_of(many, Counting(dies_after=1), tmp_path)
    path = folder_of(tmp_path) / name
    path.unlink() if kept is None else path.write_bytes(b"")
    damaged(many, tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("train-000003", "train-000030"),
        lambda text: text.replace('"crop_size": 32', '"crop_size": 48'),
        lambda text: text.replace('"channels"', '"chanels"'),
        lambda text: text.replace('"complete"', '"completed"'),
        lambda text: text.replace('"chunks"', '"chunk"'),
        lambda text: json.dumps({**json.loads(text), "chunks": []}),
        lambda text: json.dumps({**json.loads(text), "chunks": json.loads(text)["chunks"][:-1]}),
        lambda text: json.dumps({**json.loads(text), "chunks": json.loads(text)["chunks"][::-1]}),
        lambda text: json.dumps({**json.loads(text), "channels": [16, 8, 8]}),
    ],
)
def test_a_corrupted_manifest_is_noticed(many, tmp_path, spoil):
    store_of(many, Counting(), tmp_path)
    path = folder_of(tmp_path) / "manifest.json"
    text = path.read_text()
    assert spoil(text) != text
    path.write_text(spoil(text))
    damaged(many, tmp_path)


def test_a_manifest_that_is_no_text_is_noticed(many, tmp_path):
    store_of(many, Counting(), tmp_path)
    (folder_of(tmp_path) / "manifest.json").write_bytes(b"\xff\xfe\x00")
    damaged(many, tmp_path)


def test_after_deleting_a_corrupted_store_it_is_computed_again(many, tmp_path):
    before = store_of(many, Counting(), tmp_path).patches.tobytes()
    for path in folder_of(tmp_path).iterdir():
        path.unlink()
    assert store_of(many, Counting(), tmp_path).patches.tobytes() == before


class Spoilt(ColourBackbone):
    """Puts a value where the last image of a batch has its last feature."""

    def __init__(self, value):
        super().__init__(SPEC)
        self.value = value

    def forward(self, images, **keywords):
        features = super().forward(images, **keywords)
        features[-1, -1, -1, -1] = self.value
        return features


@pytest.mark.parametrize("value", [65520.0, -65520.0, math.inf, math.nan])
def test_features_beyond_float16_are_refused(many, tmp_path, value):
    with pytest.raises(InputError, match=r"train-000000 \.\. train-000007 exceed float16"):
        store_of(many, Spoilt(value), tmp_path)


def test_the_largest_feature_that_float16_rounds_to_a_finite_one_is_kept(many, tmp_path):
    assert store_of(many, Spoilt(65519.0), tmp_path).patches.max() == np.finfo(np.float16).max


def test_an_empty_split_is_refused(tmp_path, colour_backbone):
    with pytest.raises(InputError, match="val"):
        store_of(SyntheticScenes(train=2, val=0, size=(32, 32)), colour_backbone, tmp_path, split="val")


@pytest.mark.parametrize("images", [1, 4, 6])
def test_a_subset_is_the_first_images(store, images):
    subset = store.subset(images)
    assert len(subset) == images
    assert subset.ids == store.ids[:images]
    assert torch.equal(subset.levels(slice(None)), store.levels(slice(0, images)))
    assert torch.equal(subset.colours(slice(None)), store.colours(slice(0, images)))
    assert (subset.channels, subset.crop_size, subset.grid) == (store.channels, store.crop_size, store.grid)
    assert subset.key != store.key  # what is trained on fewer images is another result
    assert subset.key != store.subset(images - 1).key


def test_to_tensor_keeps_every_value_and_its_place():
    images = np.arange(2 * 8 * 16 * 3, dtype=np.int64).reshape(2, 8, 16, 3).astype(np.uint8)
    found = to_tensor(images)
    assert found.shape == (2, 3, 8, 16)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal((found * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8), images)
    assert found.max() == 1.0


def test_channel_statistics_are_mean_and_deviation_over_all_patches(store):
    levels = store.levels(slice(None)).flatten(0, 2)
    mean, deviation = store.channel_statistics
    torch.testing.assert_close(mean, levels.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(deviation, levels.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_code_that_reads_photographs_and_versions_are_part_of_the_key(tmp_path, monkeypatch):
    scenes = SyntheticScenes(train=1, val=1, size=(32, 40))
    assert {"datasets.synthetic", "datasets.base"} <= set(scenes.reader_modules)

    def key():
        return extract(scenes, "val", ColourBackbone(SPEC), CONFIG, cache=tmp_path, progress=False).key

    before, digest = key(), features.code_digest
    assert key() == before
    with monkeypatch.context() as patch:
        patch.setattr(features, "code_digest", lambda *of: digest(*of) + ("x" if "datasets.base" in of else ""))
        assert key() != before
    monkeypatch.setattr(features, "versions", lambda: "torch 99")
    assert key() != before


def test_the_backbone_is_asked_for_the_precision_of_the_configuration(scenes, tmp_path):
    backbone = Recording()
    extract(scenes, "val", backbone, replace(CONFIG, precision="bfloat16"), cache=tmp_path, progress=False)
    assert backbone.asked == {"bfloat16"}


def test_channel_statistics_are_of_all_chunks(tmp_path, colour_backbone):
    scenes = SyntheticScenes(train=IMAGES, val=1, size=(32, 40))
    found = extract(scenes, "train", colour_backbone, CONFIG, cache=tmp_path, progress=False)
    levels = found.levels(slice(None)).flatten(0, 2)
    mean, deviation = found.channel_statistics
    torch.testing.assert_close(mean, levels.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(deviation, levels.std(0, correction=0), rtol=1e-3, atol=1e-4)
