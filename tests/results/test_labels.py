"""Labels: models by their short names, by their full ones where two would be alike."""

import pandas as pd

from kdtune.results.labels import config_label, label_by_config, short_model


def trials(*students: str) -> pd.DataFrame:
    rows = [{"config_id": name, "config/student": name, "config/alpha": 0.5} for name in students]
    return pd.DataFrame(rows)


def test_short_names() -> None:
    assert short_model("resnet18") == "resnet18"
    assert short_model("timm/tf_efficientnet_lite0") == "tf_efficientnet_lite0"
    assert short_model("my.models:net+timm/vit") == "net+vit"


def test_labels_tell_configurations_apart() -> None:
    names = ["student", "alpha"]
    short = label_by_config(trials("a:small", "a:large"), names)
    assert short == {
        "a:small": "student = small, alpha = 0.5",
        "a:large": "student = large, alpha = 0.5",
    }
    full = label_by_config(trials("a:net", "b:net"), names)
    assert full["b:net"] == "student = b:net, alpha = 0.5" and len(set(full.values())) == 2


def test_an_alpha_close_to_1_is_not_called_1() -> None:
    """alpha = 1 is the baseline."""
    shown = [config_label({"alpha": x}, ["alpha"], prefix="") for x in (0.99997, 1.0, 0.00123456)]
    assert shown == ["alpha = 0.99997", "alpha = 1", "alpha = 0.001235"]
