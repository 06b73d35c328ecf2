"""The example clips are what their names say."""

from nlvideo.data import VideoReader
from nlvideo.visualization.demo import are_of_beacon, write_examples


def test_clips_are_named_after_what_the_model_sees(inspector, clips):
    assert [path.stem for path in clips] == ["left", "right", "up", "3_in_a_row"]
    for path in clips[:-1]:
        assert inspector.predictor(str(path))[0][0] == path.stem


def test_the_last_is_all_of_them(clips):
    with VideoReader(clips[-1]) as video:
        assert (video.num_frames, video.fps, video.height, video.width) == (24, 10, 64, 64)


def test_they_show_the_same_each_time(clips, tmp_path):
    again = write_examples(tmp_path / "new" / "folder", count=1)
    frames = []
    for path in (again[0], clips[0]):
        with VideoReader(path) as video:
            frames.append(video.get_frames(range(8)).astype(int))
    # An encoder on several threads does not give the same bits twice.
    assert abs(frames[0] - frames[1]).mean() < 3 < 10 < frames[0].std()


def test_they_mean_nothing_to_another_model(inspector):
    assert are_of_beacon(inspector.predictor.classes)
    assert not are_of_beacon(["left", "right"]) and not are_of_beacon([str(i) for i in range(8)])
