"""Look-up errors print one clean line and name what is close."""

import pickle

import pytest

from nlvideo.errors import LookupFailed, portable
from nlvideo.utils.messages import close_matches, did_you_mean, one_of, some


def test_lookup_failed_is_a_key_error_that_prints_without_quotes():
    error = LookupFailed("unknown BACKBONE 'x'")
    assert isinstance(error, KeyError)
    assert str(error) == "unknown BACKBONE 'x'"
    assert str(KeyError("a 'b'")) != "a 'b'"  # what the class is for


def test_lookup_failed_pickles_between_ranks():
    assert str(pickle.loads(pickle.dumps(LookupFailed("gone")))) == "gone"


def test_lookup_failed_without_a_message():
    assert str(LookupFailed()) == ""


@pytest.mark.parametrize("name, expected", [("resnet3d", ["ResNet3d"]), ("ResNet3", ["ResNet3d"]), ("qqq", [])])
def test_close_matches_ignore_case(name, expected):
    assert close_matches(name, ["ResNet3d", "Swin"]) == expected


def test_close_matches_are_limited_and_best_first():
    assert close_matches("abcd", ["abcx", "abcd", "abce", "abcf"], count=2)[0] == "abcd"
    assert len(close_matches("abcd", ["abcx", "abcd", "abce", "abcf"], count=2)) == 2


def test_did_you_mean_reads_as_a_question():
    assert did_you_mean("ResNet3", ["ResNet3d"]) == "did you mean 'ResNet3d'?"
    assert did_you_mean("zzz", ["ResNet3d"]) == ""
    assert " or " in did_you_mean("stage4", ["stage3", "stage5"])


def test_one_of_names_key_value_and_allowed():
    error = one_of("attend", "everywhere", ["space", "time"])
    assert isinstance(error, ValueError)
    assert str(error) == "attend: got 'everywhere', allowed: 'space', 'time'"


def test_some_names():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdef")) == "a, b, c, d and 2 more"


class _NeedsTwo(ValueError):
    def __init__(self, name, text):
        super().__init__(f"{name}: {text}")


class _Local(OSError):
    def __reduce__(self):
        raise TypeError("does not pickle")


def test_every_error_reaches_another_process_with_its_text():
    encode = UnicodeEncodeError("utf-8", "a\udce9", 1, 2, "surrogates not allowed")
    for error in (ValueError("a"), LookupFailed("b"), encode, FileNotFoundError(2, "none", "a.mp4")):
        assert portable(error) is error
    for error, kind in ((_NeedsTwo("a", "b"), ValueError), (_Local(28, "full"), OSError)):
        sent = pickle.loads(pickle.dumps(portable(error)))
        assert type(sent) is kind and str(sent) == f"{type(error).__name__}: {error}"
    assert type(portable(type("Own", (Exception,), {})("c"))) is RuntimeError
