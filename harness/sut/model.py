"""The generated model directory and exact token counts for it.

A tokenizer in which every witness word with a space before it is one token, and a chat template.
Dynamo needs no weights. Counts are computed here in plain Python and equal what the engine sees;
knows nothing of how prompts are composed (harness/traffic/prompts).

Counting, so that prompts can be made to an exact length:
- ` ` + word (a space, two syllables) is 1 token; a word at the start of a text, or after a newline,
  is 2; ` key:` is 3 (` ke`, `y`, `:`), and so is `key:` at the start.
- Chat: every message costs the tokens of `<|im_start|>role\\n` + content + `<|im_end|>\\n`, and the
  template ends with `<|im_start|>assistant`. The content is taken as it is: nothing is stripped.
- Completions: the prompt alone, nothing before or after it.
"""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.core import rundir, words
from harness.core.errors import UsageError
from harness.sut import lock

MODEL_NAME = "squall-words"
CONTEXT_LENGTH = 32768
VERSION = 1  # changes with the files' content: an old directory is made again
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
ASSISTANT = IM_START + "assistant"  # no newline after it: the frontend's renderer drops a final one
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")

# GPT-2's pre-tokenizer (`'s|'t|...| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`), for text whose
# non-ASCII characters were mapped to Z (letter), 0 (number), \t (space) and ! (anything else).
_PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
_SPECIAL = re.compile(re.escape(IM_START) + "|" + re.escape(IM_END))
_SYLLABLE = re.compile("[bcdfghjklmnprstvwz][aeiou]")
_HEAD = re.compile(" [bcdfghjklmnprstvwz][aeiou]([bcdfghjklmnprstvwz][aeiou])?")


def ensure(say: Callable[[str], None]) -> Path:
    """The model directory, made when it isn't there; two makers at once end with the same one."""
    path = rundir.project_root() / ".models" / f"{MODEL_NAME}-{VERSION}"
    if _complete(path):
        return path
    with lock.held(path.parent / f".{path.name}.lock"):
        if not _complete(path):
            say("generating the model directory")
            temporary = path.parent / f".{path.name}.new"
            for torn in (path, temporary):
                shutil.rmtree(torn, ignore_errors=True)
            write(temporary)
            temporary.rename(path)
    return path


def _complete(path: Path) -> bool:
    return all((path / name).is_file() for name in FILES)


def check(path: Path, witness: bool) -> None:
    """Raise UsageError when `path` is no readable model directory, or not one of witness words."""
    contents = {}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        try:
            contents[name] = json.loads((path / name).read_bytes())
        except OSError as error:
            raise UsageError(f"sut.model_dir: {path / name}: {error.strerror}; leave model_dir out "
                             "for the generated one") from None  # fmt: skip
        except ValueError as error:
            raise UsageError(f"sut.model_dir: {path / name}: no JSON ({error})") from None
    if witness and contents["tokenizer.json"].get("model") != tokenizer_json()["model"]:
        raise UsageError(f"sut.model_dir: {path / 'tokenizer.json'}: the witness engine needs the generated "
                         "tokenizer; leave model_dir out, or use `engine: mocker`")  # fmt: skip


def write(path: Path) -> None:
    """Write the four files; the same bytes every time."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_json()
    eos = tokenizer["added_tokens"][1]["id"]
    contents: dict[str, dict[str, Any]] = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4,
            "num_hidden_layers": 2, "max_position_embeddings": CONTEXT_LENGTH, "torch_dtype": "float16",
            "vocab_size": eos + 1, "bos_token_id": eos - 1, "eos_token_id": eos,
        },
        "generation_config.json": {"bos_token_id": eos - 1, "eos_token_id": eos},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT_LENGTH,
            "bos_token": IM_START, "eos_token": IM_END, "add_bos_token": False, "add_eos_token": False,
            "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE,
        },
        "tokenizer.json": tokenizer,
    }  # fmt: skip
    for name, value in contents.items():
        rundir.write_atomic(path / name, json.dumps(value, ensure_ascii=False).encode() + b"\n", 0o644)


def tokenizer_json() -> dict[str, Any]:
    """Byte-level BPE: 256 bytes, syllables, space + syllable, space + word (id 436 + k)."""
    space = "Ġ"  # GPT-2's printable stand-in for the byte 0x20
    tokens = list(_byte_alphabet())
    tokens += words.SYLLABLES
    tokens += [space + syllable for syllable in words.SYLLABLES]
    tokens += [space + word for word in words.WORDS]
    merges = [[s[0], s[1]] for s in words.SYLLABLES]
    merges += [[space, s] for s in words.SYLLABLES]
    merges += [[space + word[:2], word[2:]] for word in words.WORDS]
    added = [
        {"id": len(tokens) + n, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for n, text in enumerate((IM_START, IM_END))
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: n for n, token in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip


def _byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte, in byte order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def render(messages: Sequence[tuple[str, str]]) -> str:
    """The chat template's text for (role, content) messages, generation prompt included."""
    return "".join(f"{IM_START}{role}\n{content}{IM_END}\n" for role, content in messages) + ASSISTANT


def count_chat(messages: Sequence[tuple[str, str]]) -> int:
    """Prompt tokens of a chat request, template included, as the engine sees them."""
    return count_text(render(messages))


def count_text(prompt: str) -> int:
    """Prompt tokens of a text. Exact: merges exist only inside a syllable, before the first syllable
    and between the first two of a piece with a leading space, so counting them needs no BPE loop."""
    specials = len(_SPECIAL.findall(prompt))
    return specials + sum(_count_plain(part) for part in _SPECIAL.split(prompt))


def _count_plain(text: str) -> int:
    classes = text if text.isascii() else "".join(map(_class, text))
    total = 0
    for match in _PIECE.finditer(classes):
        piece = text[match.start() : match.end()]
        total += len(piece.encode()) - len(_SYLLABLE.findall(piece))
        head = _HEAD.match(piece)
        if head:
            total -= 2 if head[1] else 1
    return total


def _class(char: str) -> str:
    if char.isascii():
        return char
    if char.isspace():
        return "\t"
    return {"L": "Z", "N": "0"}.get(unicodedata.category(char)[0], "!")
