"""Registration and look-up of datasets."""

import pytest

from nlvideo.data.catalog import Metadata, _DatasetCatalog, _MetadataCatalog
from nlvideo.data.datasets import get_dataset


def test_register_and_get():
    catalog = _DatasetCatalog()
    catalog.register("mine", lambda: [{"file_name": "/a.mp4", "label": 0, "video_id": "a"}])
    assert catalog.get("mine")[0]["video_id"] == "a" and "mine" in catalog and list(catalog) == ["mine"]


def test_a_name_is_taken_once():
    catalog = _DatasetCatalog()
    catalog.register("mine", list)
    with pytest.raises(KeyError, match="dataset 'mine' is already registered"):
        catalog.register("mine", list)


def test_unknown_name_lists_near_matches():
    with pytest.raises(KeyError) as caught:
        get_dataset("beacon_trian")
    message = str(caught.value)
    assert message.startswith("unknown dataset 'beacon_trian': did you mean 'beacon_train'") and "\n" not in message
    assert "beacon_val" in message and "'list:FILE'" in message


def test_metadata_is_filled_in_by_assignment():
    catalog = _MetadataCatalog()
    assert catalog.get("mine") == Metadata(classes=[], evaluator_type="classification")
    catalog.get("mine").classes = ["run", "walk"]
    assert catalog.get("mine").classes == ["run", "walk"] and catalog.get("other").classes == []
