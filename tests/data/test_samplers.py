"""Orders of records: complete, disjoint over ranks, and the same wherever the stream is entered."""

import itertools
import pickle
import time
from collections import Counter

import numpy as np
import pytest

from nlvideo.data.build import share_of_rank
from nlvideo.data.records.records import Labels, compact_records
from nlvideo.data.samplers import (
    SAMPLER,
    ClassBalancedSampler,
    RepeatFactorSampler,
    TrainingSampler,
    class_balanced_subset,
)

RECORDS = [{"file_name": f"{i}.mp4", "label": 0 if i < 7 else 1 if i < 9 else 2, "video_id": str(i)} for i in range(10)]


def take(sampler, count):
    """The first ``count`` items of an endless sampler."""
    return list(itertools.islice(sampler, count))


@pytest.mark.parametrize("name", list(SAMPLER))
def test_contract(name):
    build = SAMPLER.get(name)
    whole = take(build(RECORDS, seed=3), 200)
    assert [position for _, position in whole] == list(range(200))
    assert all(type(index) is int and 0 <= index < 10 for index, _ in whole)
    assert take(build(RECORDS, seed=3), 200) == whole, "not a function of its arguments"
    assert take(build(RECORDS, seed=4), 200) != whole, "does not depend on the seed"
    assert take(build(RECORDS, seed=3, start=37), 100) == whole[37:137], "resuming changes the stream"
    ranks = [take(build(RECORDS, seed=3, rank=rank, world_size=3, start=6), 20) for rank in range(3)]
    assert [item for step in zip(*ranks) for item in step] == whole[6:66], "the ranks do not share one stream"
    assert take(pickle.loads(pickle.dumps(build(RECORDS, seed=3))), 50) == whole[:50]


@pytest.mark.parametrize("name", list(SAMPLER))
def test_empty_dataset(name):
    with pytest.raises(ValueError, match="at least one record"):
        SAMPLER.get(name)([], seed=0)


def test_training_sampler_shuffles_every_epoch_anew():
    indices = [index for index, _ in take(TrainingSampler(RECORDS), 50)]
    epochs = [indices[i : i + 10] for i in range(0, 50, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_training_sampler_enters_a_late_epoch_at_once():
    assert take(TrainingSampler(RECORDS, start=10**15), 1)[0][1] == 10**15


def test_class_balanced_sampler_is_exactly_balanced():
    indices = [index for index, _ in take(ClassBalancedSampler(RECORDS), 3 * 14)]
    labels = [RECORDS[index]["label"] for index in indices]
    assert all(sorted(labels[i : i + 3]) == [0, 1, 2] for i in range(0, 42, 3))
    counts = Counter(indices)
    assert [counts[i] for i in range(10)] == [2] * 7 + [7] * 2 + [14]
    assert len({tuple(labels[i : i + 3]) for i in range(0, 42, 3)}) > 1


def test_class_balanced_sampler_with_several_labels():
    records = [{"label": [0, 2]}, {"label": 2}, {"label": [0]}]
    counts = Counter(index for index, _ in take(ClassBalancedSampler(records), 8))
    assert counts == {0: 4, 1: 2, 2: 2}


def epochs_of(records, threshold, count, **options):
    """How often each record is in each of the first epochs, (count, N)."""
    sampler = RepeatFactorSampler(records, threshold=threshold, **options)
    indices = [index for index, _ in take(sampler, count * sampler.size)]
    return np.array([np.bincount(epoch, minlength=len(records)) for epoch in np.reshape(indices, (count, -1))])


def test_rare_classes_repeat_by_the_formula_of_lvis():
    """Every epoch has floor or ceil of the factor of each video, and the mean is the factor."""
    labels = [0] * 80 + [1] * 16 + [2] * 4
    records = [{"label": label} for label in labels]
    factors = [max(1, (0.25 / (labels.count(label) / 100)) ** 0.5) for label in labels]
    assert [factors[0], factors[80], factors[96]] == [1, 1.25, 2.5]
    counts = epochs_of(records, 0.25, 400)
    assert (counts >= np.floor(factors)).all() and (counts <= np.ceil(factors)).all()
    assert np.abs(counts.mean(axis=0) - factors).max() < 0.1
    assert set(counts.sum(axis=1)) == {110}
    # Rounding is drawn for each video and epoch.
    assert len({tuple(row[96:]) for row in counts}) > 1 and len({tuple(row[80:96]) for row in counts}) > 100


def test_a_video_repeats_by_the_rarest_of_its_labels():
    """Class 0 is that of 3 of 4 videos, 1 that of 2, 2 that of 1. A video without a label does not repeat."""
    records = [{"label": [0]}, {"label": [0, 1]}, {"label": [0, 1, 2]}, {"label": []}]
    factors = np.array([(4 / 3) ** 0.5, 2**0.5, 2, 1])
    # The length of an epoch, 5.57, is rounded up.
    assert epochs_of(records, 1.0, 2000).mean(axis=0) == pytest.approx(factors * 6 / factors.sum(), abs=0.05)


def test_without_rare_classes_an_epoch_has_each_video_once():
    assert (epochs_of(RECORDS, 0.1, 20) == 1).all() and (epochs_of(RECORDS, 0.0, 3) == 1).all()
    # An epoch that is not a whole number of clips is rounded up.
    assert set(epochs_of(RECORDS, 0.15, 20).sum(axis=1)) == {11}


def test_repeats_are_shuffled_over_the_epoch():
    sampler = RepeatFactorSampler([{"label": 0}] * 90 + [{"label": 1}] * 10, threshold=1.0)
    first = [index for index, _ in take(sampler, sampler.size)]
    assert sum(one == other for one, other in itertools.pairwise(first)) < 10


def test_repeat_factors_enter_a_late_epoch_of_many_records_at_once():
    """300,000 records of 400 classes, with two labels each, whose labels are a column."""
    labels = np.minimum(np.random.default_rng(0).geometric(0.02, 600_000) - 1, 399)

    class Table(list):
        """Records that are not asked for."""

    records = Table([None] * 300_000)
    records.labels = Labels(labels, np.arange(2, 600_001, 2), np.ones(300_000, bool))
    began = time.process_time()
    sampler = RepeatFactorSampler(records, threshold=0.0025, start=10**12)
    assert take(sampler, 3)[0][1] == 10**12 and sampler.size > 300_000
    assert time.process_time() - began < 1


@pytest.mark.parametrize("size, world_size", [(10, 1), (10, 3), (2, 4), (7, 7)])
def test_ranks_share_a_test_without_padding(size, world_size):
    shards = [list(share_of_rank(size, rank, world_size)) for rank in range(world_size)]
    assert [index for shard in shards for index in shard] == list(range(size))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def subset_labels(labels, count):
    """The labels of a balanced subset of records with these labels, after the general properties are checked."""
    records = [{"file_name": f"{i}.mp4", "label": label, "video_id": str(i)} for i, label in enumerate(labels)]
    chosen = class_balanced_subset(records, count)
    assert chosen == sorted(set(chosen)) and len(chosen) == count and all(type(i) is int for i in chosen)
    assert chosen == class_balanced_subset(compact_records(records), count)
    return Counter(tuple(labels[i]) if isinstance(labels[i], list) else labels[i] for i in chosen)


def test_a_subset_has_as_many_of_each_class_and_gives_the_share_of_small_ones_to_others():
    assert subset_labels([0] * 50 + [1] * 5 + [2] * 5, 9) == {0: 3, 1: 3, 2: 3}
    assert subset_labels([0] * 50 + [1] * 2 + [2] * 5, 12) == {0: 5, 1: 2, 2: 5}
    assert subset_labels([0] * 50 + [1] * 2 + [2] * 5, 20) == {0: 13, 1: 2, 2: 5}


def test_a_subset_smaller_than_the_number_of_classes_spreads_over_them():
    assert sorted(subset_labels([k for k in range(10) for _ in range(3)], 5)) == [0, 2, 4, 6, 8]


def test_a_subset_is_spread_over_the_order_of_a_class():
    records = [{"file_name": "a", "label": 0, "video_id": str(i)} for i in range(100)]
    assert class_balanced_subset(records, 4) == [12, 37, 62, 87]


def test_in_a_subset_several_labels_count_by_the_first_and_none_is_a_class():
    assert subset_labels([[0, 1]] * 6 + [[1]] * 6 + [[]] * 6, 6) == {(0, 1): 2, (1,): 2, (): 2}
