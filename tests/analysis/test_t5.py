"""The T5 encoder: its error where torch is missing, its numbers where it is there."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from vlascope_analysis.data.encoders import open_encoder
from vlascope_analysis.errors import AnalysisError

TORCH = bool(importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"))


@pytest.mark.skipif(TORCH, reason="torch and transformers are installed")
def test_without_torch_the_error_says_what_to_install():
    with pytest.raises(AnalysisError, match=r"vlascope-analysis\[torch\].*--encoder minilm"):
        open_encoder("t5-small")


@pytest.fixture
def tiny(tmp_path):
    """A T5 of random weights and a vocabulary of words, saved as a folder."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {w: n for n, w in enumerate(["<pad>", "</s>", "<unk>", "open", "the", "drawer", "close"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=7, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    model = transformers.T5EncoderModel(config)
    model.save_pretrained(tmp_path)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path)
    return tmp_path, model.eval(), torch


def test_mean_of_the_last_hidden_states(tiny):
    folder, model, torch = tiny
    found = open_encoder(str(folder))(["open the drawer", "close drawer"])
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in ([3, 4, 5], [6, 5])]
    np.testing.assert_allclose(found, np.stack([s.mean(0).numpy() for s in states]), atol=1e-6)


def test_an_unknown_model_is_one_line(tiny, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AnalysisError, match=r"no-such-t5.*--encoder minilm") as error:
        open_encoder("/no-such-t5")
    assert "\n" not in str(error.value)
