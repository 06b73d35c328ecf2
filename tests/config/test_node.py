"""The config tree: merging, types, and errors that teach."""

import pytest

from nlvideo.config import CfgNode, get_cfg
from nlvideo.errors import LookupFailed


@pytest.fixture
def cfg():
    """A small tree with a key of every type."""
    cfg = CfgNode()
    cfg.PLUGINS = []
    cfg.RATE = 0.5
    cfg.COUNT = 3
    cfg.NAME = "a"
    cfg.ON = False
    cfg.STEPS = [1, 2]
    cfg.SIZE = (1.0, 2.0)
    cfg.FREE = []
    cfg.ANY = None
    cfg.MODEL = CfgNode()
    cfg.MODEL.BACKBONE = CfgNode()
    cfg.MODEL.BACKBONE.DEPTH = 50
    cfg.MODEL.HEAD = CfgNode()
    cfg.MODEL.HEAD.NUM_CLASSES = 400
    return cfg


def message(function, *args):
    """Return the error text of a call, which must be one line."""
    with pytest.raises((ValueError, LookupFailed)) as info:
        function(*args)
    text = str(info.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "key, given, stored",
    [
        ("RATE", 1, 1.0),
        ("RATE", "1e-4", 1e-4),
        ("COUNT", 5.0, 5),
        ("COUNT", "1e4", 10000),
        ("NAME", "123", "123"),
        ("ON", True, True),
        ("STEPS", (4, 5), [4, 5]),
        ("STEPS", [], []),
        ("STEPS", [1.0, "2e3"], [1, 2000]),
        ("SIZE", [3, 4], (3.0, 4.0)),
        ("FREE", ["a", 1], ["a", 1]),
        ("ANY", "x", "x"),
        ("ANY", 3, 3),
    ],
)
def test_values_are_taken_in_the_type_of_the_default(cfg, key, given, stored):
    cfg.merge_from_other_cfg({key: given})
    assert cfg[key] == stored
    assert type(cfg[key]) is type(stored)


@pytest.mark.parametrize(
    "key, given, text",
    [
        ("COUNT", "abc", "COUNT: expected int, got str 'abc'"),
        ("COUNT", 1.5, "COUNT: expected int, got float 1.5"),
        ("COUNT", True, "COUNT: expected int, got bool True"),
        ("COUNT", None, "COUNT: expected int, got NoneType None"),
        ("RATE", True, "RATE: expected float, got bool True"),
        ("RATE", "fast", "RATE: expected float, got str 'fast'"),
        ("NAME", 123, "NAME: expected str, got int 123; quote it: '123'"),
        ("NAME", ["a"], "NAME: expected str, got list ['a']"),
        ("ON", 1, "ON: expected bool, got int 1"),
        ("STEPS", 30, "STEPS: expected list, got int 30; write [30]"),
        ("STEPS", "a", "STEPS: expected list, got str 'a'; write [a]"),
        ("STEPS", [1, "a"], "STEPS[1]: expected int, got str 'a'"),
        ("MODEL", 3, "MODEL: is a section with the keys BACKBONE, HEAD, got 3"),
    ],
)
def test_values_of_another_type_are_refused(cfg, key, given, text):
    before = cfg.clone()
    assert message(cfg.merge_from_other_cfg, {key: given}) == text
    assert cfg == before


def test_a_nested_key_is_named_in_full(cfg):
    text = message(cfg.merge_from_other_cfg, {"MODEL": {"HEAD": {"NUM_CLASSES": "abc"}}})
    assert text == "MODEL.HEAD.NUM_CLASSES: expected int, got str 'abc'"


TAIL = "Plugins loaded: none (a project's keys exist only once it is listed in PLUGINS)"


@pytest.mark.parametrize(
    "given, text",
    [
        ({"MODEL": {"BACKBON": {"DEPTH": 1}}}, f"unknown key 'MODEL.BACKBON'. Did you mean 'MODEL.BACKBONE'? {TAIL}"),
        ({"COUNTS": 1}, f"unknown key 'COUNTS'. Did you mean 'COUNT'? {TAIL}"),
        (
            {"MODEL": {"NUM_CLASSES": 1}},
            f"unknown key 'MODEL.NUM_CLASSES'. Did you mean 'MODEL.HEAD.NUM_CLASSES'? {TAIL}",
        ),
        ({"QQQQ": {"X": 1}}, f"unknown key 'QQQQ'. {TAIL}"),
    ],
)
def test_unknown_keys(cfg, given, text):
    assert message(cfg.merge_from_other_cfg, given) == text


def test_a_common_name_in_another_section_is_no_hint(cfg):
    for name in ("A", "B", "C"):
        cfg[name] = CfgNode({"ENABLED": False})
    assert message(cfg.merge_from_list, ["QQQQ.ENABLED", "1"]) == f"unknown key 'QQQQ.ENABLED'. {TAIL}"


def test_unknown_keys_list_the_plugins_of_this_config(cfg):
    cfg.PLUGINS = ["/projects/gated"]
    assert "Plugins loaded: /projects/gated (" in message(cfg.merge_from_other_cfg, {"QQQQ": 1})


def test_a_node_may_allow_new_keys(cfg):
    cfg.MODEL.set_new_allowed(True)
    cfg.merge_from_other_cfg({"MODEL": {"EXTRA": {"A": 1}, "B": "x"}})
    assert cfg.MODEL.EXTRA.A == 1 and cfg.MODEL.B == "x"
    assert isinstance(cfg.MODEL.EXTRA, CfgNode)


@pytest.mark.parametrize(
    "word, key, stored",
    [
        ("true", "ON", True),
        ("True", "ON", True),
        ("false", "ON", False),
        ("[3, 4]", "STEPS", [3, 4]),
        ("(3, 4)", "STEPS", [3, 4]),
        ("[beacon_train, 'list:/a b/c.txt']", "FREE", ["beacon_train", "list:/a b/c.txt"]),
        ("('a',)", "FREE", ["a"]),
        ("1e-3", "RATE", 1e-3),
        ("2", "RATE", 2.0),
        ("7", "COUNT", 7),
        ("123", "NAME", "123"),
        ("true", "NAME", "true"),
        ("[x", "NAME", "[x"),
        ("null", "ANY", None),
    ],
)
def test_words_of_the_command_line(cfg, word, key, stored):
    cfg.merge_from_list([key, word])
    assert cfg[key] == stored
    assert type(cfg[key]) is type(stored)


def test_values_that_are_not_text_are_overrides_too(cfg):
    cfg.merge_from_list(["COUNT", 4, "MODEL.BACKBONE.DEPTH", "101"])
    assert (cfg.COUNT, cfg.MODEL.BACKBONE.DEPTH) == (4, 101)


def test_a_key_without_a_default_takes_anything_each_time(cfg):
    """Also in a copy, and as words."""
    for value in ("text", [1.0, 2.0], ["a"], 3, None, "text"):
        cfg = cfg.with_overrides(["ANY", value])
        assert cfg.ANY == value
    for word, stored in (("[1, 2.5]", [1, 2.5]), ("balanced", "balanced"), ("null", None), ("None", None)):
        cfg.merge_from_list(["ANY", word])
        assert cfg.ANY == stored
    cfg.merge_from_other_cfg({"ANY": [0.5]})
    cfg.merge_from_other_cfg({"ANY": "text"})
    assert cfg.ANY == "text"


@pytest.mark.parametrize(
    "words, text",
    [
        (["COUNT"], "overrides come in pairs KEY VALUE, got 1 words: COUNT"),
        (["MODEL.HEAD", "x"], "MODEL.HEAD: is a section with the keys NUM_CLASSES; override one of them"),
        (["COUNT", "[x"], "COUNT: expected int, got str '[x'"),
        (["COUNT.X", "1"], f"unknown key 'COUNT.X'. {TAIL}"),
        (
            ["MODEL.HEAD.NUM_CLASES", "1"],
            f"unknown key 'MODEL.HEAD.NUM_CLASES'. Did you mean 'MODEL.HEAD.NUM_CLASSES'? {TAIL}",
        ),
        (
            ["MODLE.BACKBON.DEPHT", "1"],
            f"unknown key 'MODLE.BACKBON.DEPHT'. Did you mean 'MODEL.BACKBONE.DEPTH'? {TAIL}",
        ),
        (["_BASE_", "a.yaml"], f"unknown key '_BASE_'. {TAIL}"),
    ],
)
def test_wrong_overrides(cfg, words, text):
    assert message(cfg.merge_from_list, words) == text


def test_a_frozen_config_refuses_every_change(cfg):
    cfg.freeze()
    for change in (
        lambda: cfg.merge_from_other_cfg({"COUNT": 1}),
        lambda: cfg.merge_from_list(["COUNT", "1"]),
        lambda: setattr(cfg.MODEL.HEAD, "NUM_CLASSES", 1),
    ):
        with pytest.raises(AttributeError):
            change()
    clone = cfg.clone()
    clone.defrost()
    clone.COUNT = 9
    assert (cfg.COUNT, clone.COUNT) == (3, 9)


def test_a_copy_with_overrides_is_frozen_where_the_config_is(cfg):
    other = cfg.with_overrides(["COUNT", 9, "MODEL.HEAD.NUM_CLASSES", "5"])
    assert (other.COUNT, other.MODEL.HEAD.NUM_CLASSES, cfg.COUNT, cfg.MODEL.HEAD.NUM_CLASSES) == (9, 5, 3, 400)
    assert not other.is_frozen()
    cfg.freeze()
    assert cfg.with_overrides(["COUNT", 9]).is_frozen() and cfg.COUNT == 3
    with pytest.raises(LookupFailed, match="unknown key 'COUNTS'"):
        cfg.with_overrides(["COUNTS", 9])


def test_keys_with_path(cfg):
    keys = list(cfg.keys_with_path())
    assert "MODEL.HEAD.NUM_CLASSES" in keys and "COUNT" in keys
    assert "MODEL.HEAD" not in keys


def test_a_file_runs_nothing_even_where_it_is_called_safe(tmp_path, cfg):
    (tmp_path / "a.yaml").write_text(f"NAME: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(ValueError, match="a.yaml: not safe YAML"):
        cfg.merge_from_file(str(tmp_path / "a.yaml"), allow_unsafe=True)
    assert not (tmp_path / "made").exists()


def test_merge_from_file_follows_bases(tmp_path, cfg):
    (tmp_path / "base.yaml").write_text("COUNT: 4\nNAME: base\n")
    (tmp_path / "leaf.yaml").write_text("_BASE_: base.yaml\nNAME: leaf\n")
    cfg.merge_from_file(str(tmp_path / "leaf.yaml"))
    assert (cfg.COUNT, cfg.NAME) == (4, "leaf")


def test_a_value_is_found_by_its_full_key():
    cfg = get_cfg()
    assert len([cfg.value_at(key) for key in cfg.keys_with_path()]) > 100
    assert cfg.value_at("MODEL.BACKBONE.DEPTH") == cfg.MODEL.BACKBONE.DEPTH
    with pytest.raises(KeyError):
        cfg.value_at("MODEL.BACKBONE.DEEP")
