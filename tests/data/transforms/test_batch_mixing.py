"""Mixup and cutmix: pixels and labels in the same shares, by the batch's number alone."""

import numpy as np
import pytest
import torch

from nlvideo.data.transforms.batch_mixing import BatchMixer

CLASSES = 5


def batch_of(num_clips=6, multi_label=False):
    """Clips of one grey each, 40 apart, and a label each."""
    video = torch.arange(num_clips, dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 20, 30) * 40
    label = torch.arange(num_clips) % CLASSES
    if multi_label:
        label = torch.stack([torch.eye(CLASSES)[i % CLASSES] + torch.eye(CLASSES)[(i + 1) % CLASSES] for i in label])
    return {"video": video.contiguous(), "label": label, "video_id": [str(i) for i in range(num_clips)], "failed": []}


def test_mixup_adds_clips_and_labels_in_the_same_shares():
    shares = []
    for number in range(40):
        batch = batch_of(5)
        mixed = BatchMixer(CLASSES, mixup_alpha=0.8)(batch, number)
        assert mixed["video"].dtype == torch.uint8 and mixed["label"].dtype == torch.float32
        assert torch.allclose(mixed["label"].sum(dim=1), torch.ones(5))
        # The grey of a clip is that of its labels: 40 times the class.
        greys = mixed["label"] @ (40.0 * torch.arange(CLASSES))
        assert (mixed["video"].float() - greys.view(-1, 1, 1, 1, 1)).abs().max() <= 0.5
        shares += mixed["label"].amax(dim=1).tolist()
        assert torch.equal(batch["video"], batch_of(5)["video"]) and batch["label"].dtype == torch.int64
    assert min(shares) < 0.6 and max(shares) == 1.0


def test_cutmix_pastes_a_box_of_another_clip_and_counts_its_pixels():
    areas = []
    for number in range(60):
        mixed = BatchMixer(CLASSES, cutmix_alpha=1.0)(batch_of(5), number)
        for index, (video, label) in enumerate(zip(mixed["video"], mixed["label"])):
            pasted = video[0, 0] != 40 * index
            assert torch.equal(video != 40 * index, pasted.expand_as(video)), "the same box in all frames and channels"
            if not pasted.any():
                assert label[index] > 0
                continue
            rows, columns = pasted.nonzero().T
            box = video[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            other = int(box.flatten()[0]) // 40
            assert (box == 40 * other).all()
            area = box[0, 0].numel() / (20 * 30)
            assert label[other] == pytest.approx(area) and label[index] == pytest.approx(1 - area)
            areas.append(area)
    assert min(areas) < 0.1 and max(areas) > 0.7


def test_shares_come_from_the_beta_distribution():
    shares = [BatchMixer(2, mixup_alpha=0.2)(batch_of(2), number)["label"][0, 0].item() for number in range(400)]
    # Beta(0.2, 0.2) is heaped at 0 and 1; where a clip meets itself its share is 1.
    assert np.mean([share in (0.0, 1.0) for share in shares]) > 0.6
    uniform = [BatchMixer(2, mixup_alpha=1.0)(batch_of(2), number)["label"][0, 0].item() for number in range(400)]
    below = [share for share in uniform if share < 1]
    assert len(below) > 150 and np.mean(below) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_several_labels(kind):
    mixed = BatchMixer(CLASSES, **{kind: 1.0})(batch_of(5, multi_label=True), 3)
    assert torch.allclose(mixed["label"].sum(dim=1), torch.full((5,), 2.0))
    assert 0 < mixed["label"].flatten().sort().values[8] < 1


def test_number_seed_and_rank_alone_decide():
    def video(number, **options):
        return BatchMixer(CLASSES, 0.8, 1.0, **options)(batch_of(), number)["video"].numpy().tobytes()

    state = torch.get_rng_state()
    assert video(3) == video(3)
    assert len({video(3), video(4), video(3, seed=1), video(3, rank=1)}) == 4
    assert torch.equal(torch.get_rng_state(), state)


def test_both_kinds_take_turns():
    def is_cutmix(number):
        mixed = BatchMixer(CLASSES, 1.0, 1.0)(batch_of(), number)["video"]
        return bool((mixed % 40 == 0).all())

    assert 60 < sum(map(is_cutmix, range(200))) < 140


def test_some_batches_stay_whole_and_still_have_soft_labels():
    mixer, whole = BatchMixer(CLASSES, cutmix_alpha=1.0, prob=0.3), 0
    for number in range(100):
        mixed = mixer(batch_of(), number)
        assert mixed["label"].shape == (6, CLASSES) and mixed["video_id"] == list("012345") and mixed["failed"] == []
        whole += torch.equal(mixed["video"], batch_of()["video"])
    assert 55 < whole < 90


def test_nothing_to_do_is_refused():
    with pytest.raises(ValueError, match="mixup_alpha and cutmix_alpha: got 0 twice, allowed: one of them above 0"):
        BatchMixer(CLASSES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_a_gpu_gives_the_same_bytes(kind):
    video = torch.randint(0, 256, (4, 3, 2, 16, 16), dtype=torch.uint8)
    batch = {"video": video, "label": torch.arange(4)}
    mixer = BatchMixer(CLASSES, **{kind: 1.0})
    for number in range(10):
        one, other = mixer(batch, number), mixer({**batch, "video": video.cuda()}, number)
        assert other["video"].is_cuda and torch.equal(one["video"], other["video"].cpu())
        assert torch.allclose(one["label"], other["label"].cpu())
