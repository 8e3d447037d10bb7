"""Trains the tiny presets' SentencePiece model on LIBERO's instructions and on pi0.5's state text.

Knows nothing of the presets' other sizes. The same inputs and the same sentencepiece give the same bytes; run it again
only on purpose, because parameters trained with one vocabulary mean nothing with another.

    python server/scripts/train_tiny_tokenizer.py [OUTPUT]
"""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
from vlascope_server.presets.tiny import TOKENIZER_PATH
from vlascope_server.prompts import clean

_VOCABULARY = 1024
_STATE_REPEATS = 8
"""How often each number of a state's text is shown, so that every one becomes a token of its own."""


def instructions(bddl_files: Path) -> list[str]:
    """Every instruction of LIBERO, sorted: the language line of each task and the words of its file name.

    The two differ for some tasks; the simulation's benchmark hands out those of the file name.
    """
    found = set()
    for path in bddl_files.rglob("*.bddl"):
        line = re.search(r"\(:language\s+(.*?)\)", path.read_text(encoding="utf-8"))
        if line is None:
            raise SystemExit(f"{path}: expected a line (:language ...), found none")
        found |= {line[1].strip(), clean(re.sub(r"^[A-Z_]+SCENE\d+_", "", path.stem))}
    if not found:
        raise SystemExit(f"{bddl_files}: expected LIBERO's .bddl files, found none")
    return sorted(found)


def sentences(tasks: list[str]) -> Iterator[str]:
    """The training text: each instruction as pi0 and as pi0.5 put it, and every number that a state's text can hold."""
    for task in tasks:
        yield task
        yield f"Task: {task}, State: "
    for repeat in range(_STATE_REPEATS):
        numbers = list(range(-1, 256))
        for start in range(0, len(numbers), 8):
            # another neighbour each time, so that no pair of numbers looks like a word
            row = (numbers[(start + i * (repeat + 1)) % len(numbers)] for i in range(8))
            yield f"State: {' '.join(map(str, row))}"
    yield from ["Action: "] * len(tasks)


def train(bddl_files: Path) -> bytes:
    """The model file's bytes. Special tokens have PaliGemma's numbers; text that was never seen falls back to bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(instructions(bddl_files)),
        model_writer=model,
        model_type="bpe",
        vocab_size=_VOCABULARY,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        # never part of a longer token: the line break ends a prompt, the semicolon the last number
        user_defined_symbols=["\n", ";"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    """Writes the model where the presets look for it, or to the given path."""
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "package libero is not installed; it holds the instructions (pip install --no-deps hf-libero==0.1.4)"
        )
    # LIBERO is not imported: it asks questions on the terminal and loads a simulator
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else TOKENIZER_PATH
    content = train(Path(next(iter(spec.submodule_search_locations))))
    output.write_bytes(content)
    print(f"{output}: {len(content)} bytes")


if __name__ == "__main__":
    main()
