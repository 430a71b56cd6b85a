"""Models of transformers from folders that it has saved; the reference is transformers itself."""

import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_students import of_photos, run_here

import kdtune
from kdtune.config.text import InputError
from kdtune.models.registry import build

library = pytest.importorskip("transformers")
VIT = library.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32)
SQUARE = library.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6])
CONVNEXT = library.ConvNextConfig(hidden_sizes=[4, 4, 4, 8], depths=[1] * 4)
CROPPED = library.ConvNextImageProcessor(size={"shortest_edge": 32}, image_std=[0.2, 0.3, 0.4])
IMAGES = (torch.arange(4 * 3 * 32**2) % 251).byte().view(4, 3, 32, 32)


def save(folder, config, steps, kind=library.AutoModelForImageClassification.from_config):
    kind(config).save_pretrained(folder)
    steps.save_pretrained(folder)
    return f"hf:{folder}"


def logits_of(folder, steps, state):
    net = library.AutoModelForImageClassification.from_pretrained(folder)
    net.load_state_dict(state)
    return net(**steps(IMAGES, return_tensors="pt", do_resize=False)).logits


def test_a_saved_model_and_its_processor_are_used(tmp_path, monkeypatch):
    save(tmp_path / "saved", CONVNEXT, CROPPED)
    monkeypatch.syspath_prepend(tmp_path)  # where a trial, which runs elsewhere, finds the folder
    model, seven = (build("hf:saved", "default", classes, seed=1).eval() for classes in (2, 7))
    state = load_file(tmp_path / "saved" / "model.safetensors")
    torch.testing.assert_close(model(IMAGES), logits_of(tmp_path / "saved", CROPPED, state))
    assert (model.preprocessing.size, model.preprocessing.crop) == (32, 0.875)
    assert seven.has_new_head and len(seven.head.weight) == 7 and not model.has_new_head


def test_a_student_is_loaded_without_its_folder(tmp_path):
    run = of_photos(tmp_path / "images", save(tmp_path / "saved", VIT, SQUARE))
    run = replace(run, image_size=32, student_weights="default")
    students = run_here(run, tmp_path, "study", repeats=1).folder / "students"
    (tmp_path / "saved").rename(tmp_path / "moved")
    logits = logits_of(tmp_path / "moved", SQUARE, load_file(students / "repeat-00.safetensors"))
    torch.testing.assert_close(kdtune.load_student(students).logits(IMAGES), logits)


def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, monkeypatch):
    unsafe = save(tmp_path / "unsafe", VIT, SQUARE)
    (tmp_path / "unsafe" / "model.safetensors").rename(tmp_path / "unsafe" / "pytorch_model.bin")
    for name, words in {
        unsafe: "cannot be loaded .*no file named model.safetensors.*; give a file",
        save(tmp_path / "a", VIT, SQUARE, library.ViTModel): "for 0 classes, but the data has 2",
        save(tmp_path / "b", library.BertConfig(), SQUARE, lambda c: c): "of one: .*BertConfig",
        save(tmp_path / "c", VIT, library.MobileViTImageProcessor()): "its MobileViT.* does more",
        f"hf:{tmp_path}/vitt": "must be an image classifier of huggingface.co or a folder of one:",
    }.items():
        with pytest.raises(InputError, match=words):
            build(name, "default", 2, seed=0, replace_head=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"transformers: pip install 'kdtune\[transformers\]'"):
        build(unsafe, "none", 2, seed=0)
