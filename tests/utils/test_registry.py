"""Registries: three ways to register, and look-ups that teach."""

import pytest

from nlvideo.errors import LookupFailed
from nlvideo.utils.registry import Registry


@pytest.fixture
def registry():
    return Registry("SHAPE", "Called as ``shape(size)``.")


def test_doc_is_the_call_contract(registry):
    assert registry.__doc__ == "Called as ``shape(size)``."
    assert Registry("OTHER", "x").__doc__ == "x"
    assert registry.name == "SHAPE"


def test_decorator_keeps_the_class_and_uses_its_name(registry):
    @registry.register()
    class Square:
        pass

    assert registry.get("Square") is Square


def test_decorator_with_another_name(registry):
    @registry.register(name="box")
    class Square:
        pass

    assert registry.get("box") is Square
    assert "Square" not in registry


def test_call_registers_and_returns_the_object(registry):
    def circle():
        pass

    assert registry.register(circle) is circle
    assert registry.register(circle, name="round") is circle
    assert registry.get("circle") is registry.get("round") is circle


def test_iterates_over_names_in_order_of_registration(registry):
    for name in ("b", "a", "c"):
        registry.register(object(), name=name)
    assert list(registry) == ["b", "a", "c"]
    assert len(registry) == 3
    assert "a" in registry and "d" not in registry
    assert repr(registry) == "Registry(SHAPE: b, a, c)"


def test_duplicate_name_names_the_first_owner(registry):
    class Square:
        pass

    registry.register(Square)
    with pytest.raises(KeyError, match="SHAPE 'Square' is already registered, by .*Square"):
        registry.register(Square)
    assert registry.get("Square") is Square


def test_unknown_name_lists_matches_names_and_plugins(registry, monkeypatch):
    registry.register(object(), name="ResNet3d")
    registry.register(object(), name="Swin")
    monkeypatch.setattr("nlvideo.utils.registry.loaded_plugins", list)
    with pytest.raises(LookupFailed) as info:
        registry.get("ResNet3")
    assert str(info.value) == (
        "unknown SHAPE 'ResNet3': did you mean 'ResNet3d'? Registered: ResNet3d, Swin. Plugins loaded: none"
    )


def test_unknown_name_without_a_match_or_any_name(registry, monkeypatch):
    monkeypatch.setattr("nlvideo.utils.registry.loaded_plugins", lambda: ["/projects/gated", "hat"])
    with pytest.raises(LookupFailed) as info:
        registry.get("x")
    assert str(info.value) == (
        "unknown SHAPE 'x': no name is close. Registered: none. Plugins loaded: /projects/gated, hat"
    )


def test_a_registered_none_like_object_is_found(registry):
    registry.register([], name="empty")
    assert registry.get("empty") == []
