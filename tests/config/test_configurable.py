"""@configurable: one constructor, two ways to call it."""

import pytest

from nlvideo.config import configurable, get_cfg, load_cfg
from nlvideo.config.configurable import build_registered
from nlvideo.modeling import build_backbone
from nlvideo.utils.registry import Registry


class Head:
    """What a component looks like."""

    @configurable
    def __init__(self, num_classes: int, *, dropout: float = 0.0, extra: str = "none"):
        """Document me."""
        self.arguments = (num_classes, dropout, extra)

    @classmethod
    def from_config(cls, cfg, dropout_scale=1.0):
        """Read the two keys."""
        return {"num_classes": cfg.MODEL.HEAD.NUM_CLASSES, "dropout": cfg.MODEL.HEAD.DROPOUT * dropout_scale}


class WideHead(Head):
    """Inherits both the constructor and from_config."""


class OtherHead(Head):
    """Has a constructor and from_config of its own."""

    @configurable
    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    @classmethod
    def from_config(cls, cfg):
        """Add the width."""
        return {"width": 7, **super().from_config(cfg)}


class GreedyHead(Head):
    """Takes whatever it is given."""

    @classmethod
    def from_config(cls, cfg, *args, **kwargs):
        """Pass everything on."""
        return {"num_classes": len(args), **kwargs}


def test_plain_arguments():
    assert Head(3, dropout=0.1).arguments == (3, 0.1, "none")
    assert Head(num_classes=3).arguments == (3, 0.0, "none")


@pytest.mark.parametrize("call", [lambda cfg, **kw: Head(cfg, **kw), lambda cfg, **kw: Head(cfg=cfg, **kw)])
def test_a_config_first_or_by_name(call):
    assert call(get_cfg()).arguments == (400, 0.5, "none")
    assert call(get_cfg(), extra="x").arguments == (400, 0.5, "x")
    assert call(get_cfg(), num_classes=2).arguments == (2, 0.5, "none")
    assert call(get_cfg(), dropout_scale=2).arguments == (400, 1.0, "none")


def test_arguments_of_from_config_by_position():
    assert Head(get_cfg(), 0.5).arguments == (400, 0.25, "none")


def test_subclasses():
    assert WideHead(get_cfg()).arguments == (400, 0.5, "none")
    assert OtherHead(get_cfg()).arguments == (400, 0.5, "none")
    assert OtherHead(get_cfg()).width == 7
    assert OtherHead(get_cfg(), width=8, num_classes=2).width == 8
    assert OtherHead(2, num_classes=5).arguments == (5, 0.0, "none")


def test_a_from_config_with_keyword_arguments_gets_them_all():
    assert GreedyHead(get_cfg(), "a", "b", extra="x").arguments == (2, 0.0, "x")


def test_the_constructor_keeps_its_name_and_documentation():
    assert Head.__init__.__name__ == "__init__"
    assert Head.__init__.__doc__ == "Document me."


def test_a_class_without_from_config():
    class Bare:
        @configurable
        def __init__(self, size):
            self.size = size

    assert Bare(3).size == 3
    with pytest.raises(TypeError, match="Bare is called with a cfg but has no classmethod from_config"):
        Bare(get_cfg())


def test_a_from_config_that_does_not_take_a_cfg():
    class Odd:
        @configurable
        def __init__(self, size):
            self.size = size

        @classmethod
        def from_config(cls, size):
            """Take the wrong thing."""
            return {"size": size}

    with pytest.raises(TypeError, match=r"Odd.from_config must take 'cfg' first, it takes \['size'\]"):
        Odd(get_cfg())


def test_it_decorates_constructors_only():
    with pytest.raises(TypeError, match="decorates __init__"):

        @configurable
        def build(cfg):
            return cfg


class Checked:
    """Refuses its arguments, each in another way."""

    @configurable
    def __init__(self, message, kind=ValueError):
        raise kind(message)

    @classmethod
    def from_config(cls, cfg, message="", kind=ValueError):
        """Pass on what to say."""
        return {"message": message, "kind": kind}


@pytest.mark.parametrize(
    "message, said",
    [
        ("loss: got 'x', allowed: 'softmax', 'sigmoid'", "MODEL.HEAD.LOSS: got 'x', allowed: 'softmax', 'sigmoid'"),
        ("attend with dim=2: got 'time'", "MODEL.NONLOCAL.ATTEND with dim=2: got 'time'"),
        # Two keys have this name, and none has that.
        ("norm: got 'x'", "norm: got 'x'"),
        ("unheard_of: got 'x'", "unheard_of: got 'x'"),
        ("the loss is wrong", "the loss is wrong"),
    ],
)
def test_an_error_of_an_argument_names_its_key(message, said):
    with pytest.raises(ValueError) as info:
        Checked(get_cfg(), message=message)
    assert str(info.value) == said
    with pytest.raises(ValueError) as info:
        Checked(message)
    assert str(info.value) == message


def test_an_error_of_another_class_keeps_it():
    with pytest.raises(UnicodeError, match="^loss: got"):
        Checked(get_cfg(), message="loss: got 'x'", kind=UnicodeError)


def build(name, *args):
    """What a registry of heads builds with these ``MODEL.BACKBONE.ARGS``."""
    registry = Registry("HEADS", "Heads.")
    for head in (Head, OtherHead):
        registry.register(head)
    registry.register(lambda cfg, channels, width=1: (channels, width), name="factory")
    cfg = load_cfg(None, ["MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.ARGS", [list(pair) for pair in args]])
    return build_registered(registry, cfg, "MODEL.BACKBONE", *([8] if name == "factory" else []))


def test_arguments_of_a_key():
    """They reach the constructor in the type of their default; a first input is none of them."""
    assert build("Head", ("extra", "x")).arguments == (400, 0.5, "x")
    assert build("factory", ("width", 3.0)) == (8, 3)


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        ("Head", "dropout", 0.1, "Head has no argument 'dropout' of its own. Allowed: 'extra'"),
        ("Head", "extra", 3, "extra: expected str, got int 3; quote it: '3'"),
        ("OtherHead", "extr", "x", "OtherHead has no argument 'extr' of its own. did you mean 'extra'? Allowed:"),
        ("factory", "channels", 4, "factory has no argument 'channels' of its own. Allowed: 'width'"),
    ],
)
def test_arguments_of_a_key_that_do_not_fit(name, argument, value, message):
    with pytest.raises(ValueError, match=r"^MODEL\.BACKBONE\.ARGS: ") as error:
        build(name, (argument, value))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_reserved_argument_of_a_key():
    """The head reads the last feature of a backbone, so a config does not choose the features."""
    cfg = load_cfg(None, ["MODEL.BACKBONE.ARGS", [["out_features", ["res4"]]]])
    with pytest.raises(
        ValueError, match="ResNet3d has no argument 'out_features' of its own. Allowed: 'temporal_blocks'"
    ):
        build_backbone(cfg)


def test_an_unknown_name_of_a_key():
    with pytest.raises(KeyError, match="MODEL.BACKBONE.NAME: unknown HEADS 'Hed': did you mean 'Head'"):
        build("Hed")
