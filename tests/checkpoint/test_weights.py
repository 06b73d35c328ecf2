"""Loading weights that do not fit completely, and the report about it."""

import logging

import pytest
import torch
from torch import nn

from nlvideo.checkpoint import Checkpointer, read_file, weights_of
from nlvideo.checkpoint.weights import flatten, load_weights_into
from nlvideo.modeling.backbone.inflate import inflate_2d_weights


def _stage(width, nonlocal_block):
    stage = nn.Module()
    stage.add_module("0", nn.Sequential(nn.Conv3d(width, width, 1, bias=False), nn.BatchNorm3d(width)))
    if nonlocal_block:
        block = nn.Module()
        block.theta = nn.Conv3d(width, width, 1)
        block.bn = nn.BatchNorm3d(width)
        stage.add_module("nl0", block)
    return stage


def _model(nonlocal_block=False, num_classes=4, width=2):
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.stem = nn.Conv3d(3, width, (5, 3, 3))
    model.backbone.res4 = _stage(width, nonlocal_block)
    model.head = nn.Module()
    model.head.classifier = nn.Linear(width, num_classes)
    return model


def _save(tmp_path, content, name="weights.pth"):
    torch.save(content, tmp_path / name)
    return str(tmp_path / name)


def _load(model, path, tmp_path, **keywords):
    return Checkpointer(model, str(tmp_path / "out"), **keywords).load_weights(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "optimizer": {}, "iteration": 3},
        lambda state: {"state_dict": state, "epoch": 1},
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    ],
    ids=["ours", "state_dict", "plain", "plain-ddp", "ours-ddp"],
)
def test_accepted_layouts(tmp_path, wrap):
    source, model = _model(), _model()
    report = _load(model, _save(tmp_path, wrap(source.state_dict())), tmp_path)
    assert report.is_complete and len(report.loaded) == report.num_model_tensors == len(source.state_dict())
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in source.state_dict().items())


def test_averaged_weights_on_request(tmp_path):
    source, averaged, model = _model(), _model(), _model()
    path = _save(tmp_path, {"model": source.state_dict(), "ema": averaged.state_dict()})
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.load_weights(path, entry="ema")
    assert torch.equal(model.backbone.stem.weight, averaged.backbone.stem.weight)
    path = _save(tmp_path, {"model": source.state_dict()})
    with pytest.raises(ValueError, match="found no weights under 'ema'; the file holds model"):
        checkpointer.load_weights(path, entry="ema")


def test_a_baseline_into_a_network_with_nonlocal_blocks(tmp_path, caplog):
    model = _model(nonlocal_block=True)
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        report = _load(model, _save(tmp_path, _model().state_dict()), tmp_path)
    assert report.missing == [] and len(report.new_nonlocal) == 7
    (row,) = [line for line in caplog.text.splitlines() if line.startswith("new non-local blocks (expected)")]
    assert "backbone.res4.nl0 " in row and "theta.weight, theta.bias, bn.weight" in row


def test_half_a_nonlocal_block_is_not_expected(tmp_path):
    state = _model(nonlocal_block=True).state_dict()
    state = {name: tensor for name, tensor in state.items() if "nl0.bn." not in name}
    report = _load(_model(nonlocal_block=True), _save(tmp_path, state), tmp_path)
    assert report.new_nonlocal == []
    assert [name.rpartition(".")[2] for name in report.missing] == ["weight", "bias", "running_mean", "running_var"]


def test_nonlocal_blocks_that_the_model_lacks_are_reported(tmp_path):
    report = _load(_model(), _save(tmp_path, _model(nonlocal_block=True).state_dict()), tmp_path)
    assert "backbone.res4.nl0.theta.weight" in report.unexpected
    assert "unexpected in the file" in report.format()


def test_another_number_of_classes_is_skipped_and_reported(tmp_path, caplog):
    model = _model(num_classes=7)
    before = model.head.classifier.weight.clone()
    with caplog.at_level(logging.WARNING, logger="nlvideo"):
        report = _load(model, _save(tmp_path, _model(num_classes=400).state_dict()), tmp_path)
    assert report.classifier == {"head.classifier.weight": ((400, 2), (7, 2)), "head.classifier.bias": ((400,), (7,))}
    assert torch.equal(model.head.classifier.weight, before)
    assert "classifier of other classes (skipped)" in caplog.text
    assert "weight (file (400, 2), model (7, 2)), bias (file" in caplog.text


def test_another_shape_is_skipped_and_reported(tmp_path):
    state = _model().state_dict()
    state["backbone.stem.weight"] = torch.zeros(2, 3, 1, 3, 3)
    report = _load(_model(), _save(tmp_path, state), tmp_path)
    assert report.mismatched == {"backbone.stem.weight": ((2, 3, 1, 3, 3), (2, 3, 5, 3, 3))}
    assert "other shape (skipped)" in report.format()


def test_the_table_groups_by_module():
    state = _model().state_dict()
    del state["backbone.res4.0.1.weight"], state["backbone.res4.0.1.bias"]
    state["backbone.fc.weight"] = torch.zeros(1)
    text = load_weights_into(_model(), state, "w.pth").format()
    assert text.startswith("Loaded 8 of the model's 10 tensors from w.pth\n")
    (row,) = [line for line in text.splitlines() if line.startswith("missing in the file")]
    assert row.split("  ")[-1].strip() == "weight, bias" and "backbone.res4.0.1" in row


def test_an_empty_file_says_so():
    with pytest.raises(ValueError, match="found no weights; the file holds nothing$"):
        flatten({}, "w.pth")


def test_batch_counters_are_nobodys_business():
    state = {name: tensor for name, tensor in _model().state_dict().items() if "num_batches" not in name}
    report = load_weights_into(_model(), state, "w.pth")
    assert report.is_complete and f"Loaded {len(state)} of the model's {len(state)} tensors" in report.format()
    state["backbone.old.num_batches_tracked"] = torch.zeros(())
    assert load_weights_into(_model(), state, "w.pth").is_complete


def test_foreign_weights_are_an_error_that_shows_both_sides(tmp_path):
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.bias": torch.zeros(64)}
    state["head.classifier.bias"] = torch.ones(4)
    with pytest.raises(ValueError) as error:
        _load(model, _save(tmp_path, state), tmp_path)
    text = str(error.value)
    assert "only 0 of the backbone's 7 tensors fit" in text and "\n" not in text
    assert "conv1.weight (64, 3, 7, 7)" in text and "backbone.stem.weight (2, 3, 5, 3, 3)" in text
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kept, accepted", [(3, False), (4, True)])
def test_half_of_the_backbone_is_the_limit(kept, accepted):
    """Of seven tensors without the batch counter; the absent non-local block does not count against the file."""
    names = [n for n in _model().state_dict() if n.startswith("backbone.") and "num_batches" not in n][:kept]
    state = {name: _model().state_dict()[name] for name in names}
    if accepted:
        load_weights_into(_model(nonlocal_block=True), state, "w.pth")
    else:
        with pytest.raises(ValueError, match="only 3 of the backbone's 7"):
            load_weights_into(_model(nonlocal_block=True), state, "w.pth")


def test_2d_weights_are_inflated_by_the_hook(tmp_path):
    state = _model().state_dict()
    state["backbone.stem.weight"] = torch.rand(2, 3, 3, 3)
    state["backbone.res4.0.0.weight"] = torch.rand(2, 2, 1, 1)
    model = _model()
    report = _load(model, _save(tmp_path, state), tmp_path, adapt_weights=inflate_2d_weights)
    assert report.is_complete and report.num_reshaped == 2
    torch.testing.assert_close(model.backbone.stem.weight.sum(2), state["backbone.stem.weight"])
    torch.testing.assert_close(model.backbone.stem.weight[:, :, 0], state["backbone.stem.weight"] / 5)
    assert "2 of them adapted in shape" in report.format()


def test_a_hook_may_rename(tmp_path):
    state = {f"net.{name}": tensor for name, tensor in _model().state_dict().items()}

    def rename(weights, model):
        """Drop the prefix."""
        return {name.removeprefix("net."): tensor for name, tensor in weights.items()}

    report = _load(_model(), _save(tmp_path, state), tmp_path, adapt_weights=rename)
    assert report.is_complete and report.num_reshaped == 0


def test_resume_never_adapts(tmp_path):
    Checkpointer(_model(), str(tmp_path)).save("m")
    hook = pytest.fail
    Checkpointer(_model(), str(tmp_path), adapt_weights=hook).resume_or_load("", resume=True)


def test_frozen_norms_load_from_trained_ones(tmp_path):
    from nlvideo.layers.norm import freeze_norms

    source = _model(nonlocal_block=True)
    frozen = freeze_norms(_model(nonlocal_block=True))
    assert _load(frozen, _save(tmp_path, source.state_dict()), tmp_path).is_complete


def test_a_model_without_backbone_and_head():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="only 1 of the backbone's 4"):
        load_weights_into(model, {"0.weight": torch.zeros(2, 2)}, "w.pth")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint .*nowhere.pth"):
        read_file(str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of weights .* it holds nothing$"),
        (b"not a checkpoint", "no file of weights"),
        (b"extra\n", "no file of weights"),
        (b"PK\x03\x04 cut short", "not a complete PyTorch file"),
    ],
)
def test_broken_files(tmp_path, content, message):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"broken.pth: {message}") as error:
        read_file(str(tmp_path / "broken.pth"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"epoch 1\nloss 0.5\n", r"a text: 'epoch 1\nloss 0.5\n'"),  # KeyError: 101 to the unpickler
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\x1f\x8b\x08\x00", "gzip data"),
    ],
)
def test_a_file_that_is_no_checkpoint_says_what_it_is(tmp_path, content, kind):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_file(str(tmp_path / "a.pth"))
    assert kind in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.01, 0.25, 0.5, 0.999])
def test_truncated_files_are_one_short_line(tmp_path, zipped, kept):
    path = tmp_path / "w.pth"
    torch.save({"model": {"a": torch.zeros(20000)}}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ValueError) as error:
        read_file(str(path))
    said = str(error.value).removeprefix(f"{path}: not a complete PyTorch file of tensors and plain types")
    assert said == ": it is cut short or damaged"


class _Foreign:
    """Anything that would run code on loading."""


def test_files_with_a_foreign_object_for_the_weights_are_refused(tmp_path):
    path = _save(tmp_path, {"model": _Foreign(), "epoch": 3})
    with pytest.raises(ValueError, match=r"weights.pth: found no weights; the file holds epoch$"):
        Checkpointer(_model(), "unused").load_weights(path)


def test_a_file_without_weights(tmp_path):
    with pytest.raises(ValueError, match="w.pth: found no weights; the file holds epoch, args$"):
        weights_of({"epoch": 3, "args": {}}, "w.pth")
    content = {"state_dict": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}, "epoch": 3}
    with pytest.raises(ValueError, match="w.pth: found no weights under 'average'; the file holds state_dict, ema$"):
        weights_of(content, "w.pth", "average")
    with pytest.raises(ValueError, match="expected a dict, got list"):
        read_file(_save(tmp_path, [1, 2]))
