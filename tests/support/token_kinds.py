"""Small tokenizers of the kinds there are, made on the spot."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LETTERS = "ab1.\n\r\t é答。—"


def byte_fallback(strip: bool = True) -> PreTrainedTokenizerFast:
    """Like Llama 2's (or, without ``strip``, Gemma's): what has no piece is written in bytes."""
    pieces = ["▁", "a", "b", "1", ".", "▁a", "▁▁", "ab", "\n", "é"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{i:02X}>": 3 + i for i in range(256)}
    vocabulary |= {piece: 259 + i for i, piece in enumerate(pieces if not strip else pieces[:-2])}
    merges = [("▁", "a"), ("▁", "▁"), ("a", "b")]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if strip else spaces
    )
    ends = [decoders.Strip(" ", 1, 0)] if strip else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2's, with merges that end within a character."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ċ", "Ċ"), ("č", "Ċ"), ("Ġ", "Ċ"), (".", "ĊĊ"), ("ç", "Ń"), ("Ċ", "ç"), ("a", "Ã")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    wrapped.add_special_tokens({"eos_token": "<|end|>"})
    wrapped.add_tokens(["<think>"])
    return wrapped


def words(decoder: decoders.Decoder | None, *pieces: str) -> PreTrainedTokenizerFast:
    """Whole words; how they are joined is the decoder's."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if decoder is not None:
        tokenizer.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


KINDS = {
    "byte-level": byte_level,
    "byte fallback": byte_fallback,
    "byte fallback, no strip": lambda: byte_fallback(strip=False),
    "metaspace": lambda: words(
        decoders.Metaspace(), "▁a", "b", "▁", "\n", "\n\n", "▁\n", "▁.", "1"
    ),
    "word pieces": lambda: words(
        decoders.WordPiece(), "a", "##b", "\n", "##\n", "##\n\n", ".", "1"
    ),
    "suffixes": lambda: words(decoders.BPEDecoder(), "a", "b</w>", "\n", ".</w>", "1</w>"),
    "no decoder": lambda: words(None, "a", "b", "\n", "\n\n", ".", "1"),
}
