"""Records as arrays: the same records as plain dicts, in a fraction of the memory, and shared by processes."""

import itertools
import multiprocessing
import pickle

import numpy as np
import pytest

from nlvideo.data.records.records import (
    ChainedRecords,
    Labels,
    SerializedRecords,
    StringBlock,
    TableRecords,
    chain_records,
    compact_records,
    id_hashes,
    labels_of,
)

RECORDS = [{"file_name": f"/{i}.mp4", "label": i % 3, "video_id": str(i)} for i in range(6)]
HASHES = ["0000000000000000", "0000000000000062", "62a9402a3c99b36b", "10d6d52e877666b6"]
SEVERAL = [{"file_name": "/a", "label": [2, 0], "video_id": "a"}, {"file_name": "/b", "label": 1, "video_id": "b"},
           {"file_name": "/c", "label": [], "video_id": "é"}]  # fmt: skip


def make_table(videos, labels, folder="/", **columns):
    """A table of videos and labels."""
    return TableRecords(folder, StringBlock.from_strings(videos), Labels.from_values(labels), **columns)


@pytest.mark.parametrize("records", [RECORDS, SEVERAL, [], RECORDS + SEVERAL])
def test_serialized_records_are_the_records(records):
    compact = SerializedRecords(records)
    assert list(compact) == records == compact and len(compact) == len(records)
    assert pickle.loads(pickle.dumps(compact)) == records
    assert compact_records(compact) is compact and compact_records(records) == records


def test_any_index_and_slice():
    records = SerializedRecords(RECORDS)
    assert records[3] == RECORDS[3] and records[-1] == RECORDS[-1] and records[1:5:2] == RECORDS[1:5:2]
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"record {index} was asked for, there are 6"):
            records[index]
    assert records != RECORDS[:5] and records != RECORDS[::-1] and records != 3


def test_tables_make_records_of_their_columns():
    numbers = {"start_sec": np.array([1.5, np.nan, 0.0]), "fps": np.full(3, np.nan)}
    spans = StringBlock.from_strings(["0 1 2", "", "3 0.5 1;1 2 3"])
    table = make_table(["a/b.mp4", "/abs.mp4", "far://c.mp4"], [0, [1, 2], []], "/root", numbers=numbers, spans=spans)
    assert table == [
        {"file_name": "/root/a/b.mp4", "label": 0, "video_id": "a/b.mp4", "start_sec": 1.5,
         "label_spans": [(0, 1.0, 2.0)]},
        {"file_name": "/abs.mp4", "label": [1, 2], "video_id": "/abs.mp4", "label_spans": []},
        {"file_name": "far://c.mp4", "label": [], "video_id": "far://c.mp4", "start_sec": 0.0,
         "label_spans": [(3, 0.5, 1.0), (1, 2.0, 3.0)]},
    ]  # fmt: skip
    assert pickle.loads(pickle.dumps(table)) == table


def test_repeated_videos_are_numbered_in_order():
    videos = ["b", "a", "b", "c", "b", "a", "#2"]
    assert [record["video_id"] for record in make_table(videos, range(7))] == ["b", "a", "b#2", "c", "b#3", "a#2", "#2"]


def test_chained_records():
    parts = [RECORDS[:2], SerializedRecords([]), make_table(["x", "y"], [5, [6]]), SEVERAL]
    chained, expected = chain_records(parts), [record for part in parts for record in part]
    assert chained == expected and [chained[i] for i in range(len(chained))] == expected
    compact = compact_records(chained)
    assert isinstance(compact, ChainedRecords) and compact == expected
    assert not any(isinstance(part, list) for part in compact.parts)
    assert chain_records([RECORDS]) is RECORDS


@pytest.mark.parametrize("records", [RECORDS, SEVERAL, RECORDS + SEVERAL, []])
def test_labels_and_ids_do_not_depend_on_the_representation(records):
    variants = [records, SerializedRecords(records), ChainedRecords([records[:1], SerializedRecords(records[1:])])]
    variants.append(make_table([r["video_id"] for r in records], [r["label"] for r in records]))
    for variant in variants:
        labels = labels_of(variant)
        assert [labels[i] for i in range(len(labels))] == [record["label"] for record in records]
        flat = [np.atleast_1d(record["label"]).tolist() for record in records]
        assert labels.values.tolist() == list(itertools.chain(*flat)) and labels.counts.tolist() == list(map(len, flat))
        assert labels.owners.tolist() == [i for i, some in enumerate(flat) for _ in some]
        assert labels.are_lists.tolist() == [isinstance(record["label"], list) for record in records]
        assert id_hashes(variant).tolist() == id_hashes(records).tolist()


def test_hashes_tell_texts_apart_wherever_they_lie():
    rng = np.random.default_rng(0)
    texts = ["", "a", "b", "ab", "ba", "a\0", "\0a", "é", "x" * 5000, *(rng.bytes(9).hex() for _ in range(3000))]
    hashes = StringBlock.from_strings(texts).hashes()
    assert len(set(hashes.tolist())) == len(texts)
    # The same texts in another order, with others between them, over several chunks.
    block = StringBlock.from_strings(itertools.chain(*((text, rng.bytes(400).hex()) for text in reversed(texts))))
    assert [block[2 * i] for i in range(len(texts))] == texts[::-1]
    assert np.array_equal(block.hashes()[::2], hashes[::-1])


def test_ids_of_repeated_videos_are_hashed_whole():
    table, whole = make_table(["a", "a"], [0, 1]), make_table(["a", "a#2"], [0, 1])
    assert np.array_equal(table.id_hashes(), whole.id_hashes())


def test_hashes_stay_what_they_were():
    # Fingerprints in logs of earlier runs are made of them.
    hashes = StringBlock.from_strings(["", "a", "some/video.mp4", "é"]).hashes()
    assert [f"{value:016x}" for value in hashes.tolist()] == HASHES


def test_blocks_are_joined():
    parts = [["a", "bc"], [], ["", "é"]]
    assert list(StringBlock.concatenate([StringBlock.from_strings(part) for part in parts])) == list(
        itertools.chain(*parts)
    )


def test_a_table_takes_little_memory():
    count = 20_000
    table = make_table([f"class_{i % 100}/video_{i:08d}.mp4" for i in range(count)], range(count), "/folder")
    # Text, its end and a label: what is pickled is what there is.
    assert len(pickle.dumps(table)) / count < 27 + 2 * 8 + 8


def _first_and_last(records, queue):
    queue.put((records[0], records[-1]))


def test_spawned_processes_read_the_same_memory():
    table = make_table([f"{i}.mp4" for i in range(1000)], range(1000), "/folder")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_first_and_last, args=(table, queue))
    process.start()
    assert queue.get(timeout=120) == (table[0], table[999])
    process.join()
    assert table._videos._data.is_shared(), "the worker got a copy"
