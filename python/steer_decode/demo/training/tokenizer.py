"""The word-level tokenizer of the trained pair.

One token is one word between spaces: a number, an operator with its operand ("*6"), a name, a
cell. The step break "\\n\\n" is a token of its own. Decoding puts one space between words and
none around a step break, so text -> ids -> text is exact for every problem. No token is added
to a prompt: `tokenizer(prompt)` gives the ids that training used.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..problems import mathematics, planning, question_answering
from ..problems.problem import STEP_BREAK

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
SPECIAL = (PAD, UNK, BOS, EOS)
MAX_LENGTH = 512

_CONNECTIVES = ("=", "?", "answer", "Compute", "Who", "is", "Route", "to", "walls")

# The last user message alone: the models know problems, not conversations.
_CHAT_TEMPLATE = "{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content }}"


def vocabulary() -> list[str]:
    """All words in id order, special tokens first."""
    return [
        *SPECIAL,
        STEP_BREAK,
        *_CONNECTIVES,
        *mathematics.VALUES,
        *mathematics.OPERATIONS,
        *question_answering.NAMES,
        *question_answering.RELATIONS,
        *planning.CELLS,
        *planning.MOVES,
        *planning.REMAINING,
    ]


def build() -> PreTrainedTokenizerFast:
    """The tokenizer as transformers uses it."""
    ids = {word: i for i, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(STEP_BREAK, "isolated"),
            pre_tokenizers.Split(Regex(" +"), "removed"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"\A"), " "),
            decoders.Fuse(),
            decoders.Replace(" " + STEP_BREAK, STEP_BREAK),
            decoders.Replace(STEP_BREAK + " ", STEP_BREAK),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        chat_template=_CHAT_TEMPLATE,
    )


class Encoder:
    """Text to ids by dictionary, fast enough for training.

    It does what `build()` does.
    """

    def __init__(self) -> None:
        self._ids = {word: i for i, word in enumerate(vocabulary())}
        self.eos = self._ids[EOS]
        self.step_break = self._ids[STEP_BREAK]

    def __call__(self, text: str) -> list[int]:
        """Ids of `text`; KeyError for a word outside the vocabulary."""
        words = text.replace(STEP_BREAK, f" {STEP_BREAK} ").split(" ")
        return [self._ids[word] for word in words if word]


def save(folder: Path) -> None:
    """Write the tokenizer's files into `folder`.

    Their class is one that every release can load. AutoTokenizer would otherwise take the class
    from the model type and garble the words.
    """
    build().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n")
