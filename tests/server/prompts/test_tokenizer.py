import hashlib
import io
import urllib.error

import numpy as np
import pytest
from vlascope_server.presets.tiny import TOKENIZER_PATH
from vlascope_server.prompts import Tokenizer, TokenizerError, paligemma, paligemma_path, paligemma_tokenizer

BOS = 2


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(TOKENIZER_PATH)


def test_a_prompt_is_padded(tokenizer):
    prompt = tokenizer.encode("pick up the bowl", 48)
    assert prompt.tokens.shape == prompt.mask.shape == (48,)
    assert prompt.tokens.dtype == np.int32
    assert prompt.mask.dtype == bool
    assert prompt.truncated == 0
    n = prompt.mask.sum()
    assert prompt.mask[:n].all()
    assert (prompt.tokens[n:] == 0).all()
    assert prompt.tokens[0] == BOS
    assert tokenizer.decode(prompt) == "pick up the bowl\n"


def test_the_line_break_of_pi0_is_a_token_of_its_own(tokenizer):
    with_break, other = tokenizer.encode("open", 16), tokenizer.encode("turn on the stove", 16)
    last = with_break.tokens[with_break.mask][-1]
    assert last == other.tokens[other.mask][-1]
    # one that the user writes is a space
    assert (tokenizer.encode("a\nb", 16).tokens == tokenizer.encode("a b", 16).tokens).all()


def test_a_state_stands_in_the_text(tokenizer):
    prompt = tokenizer.encode("open_it ", 64, state=np.array([-1.5, 0.0, 1.0]))
    assert tokenizer.decode(prompt) == "Task: open it, State: -1 128 255;\nAction: "
    assert prompt.tokens[0] == BOS


@pytest.mark.parametrize("state", [None, np.zeros(8)])
def test_overflow_truncates_and_is_reported(tokenizer, state):
    whole = tokenizer.encode("pick up the bowl", 64, state)
    n = int(whole.mask.sum())
    for length in (1, n - 3, n, n + 1):
        prompt = tokenizer.encode("pick up the bowl", length, state)
        kept = min(n, length)
        assert prompt.truncated == n - kept
        assert prompt.mask.sum() == kept
        np.testing.assert_array_equal(prompt.tokens[:kept], whole.tokens[:kept])


def test_an_empty_instruction_is_a_prompt(tokenizer):
    prompt = tokenizer.encode("", 8)
    assert prompt.mask.sum() == 2
    assert tokenizer.decode(prompt) == "\n"


@pytest.mark.parametrize("text", ["Wärme 漢字 🤖 \t{}", "ZZZ@#%^&*()"])
def test_any_text_encodes(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, 100)) == text + "\n"


def test_nan_is_refused(tokenizer):
    with pytest.raises(ValueError, match="is NaN"):
        tokenizer.encode("open", 48, state=np.array([np.nan]))


def test_a_vocabulary_that_is_too_large_is_refused(tokenizer):
    tokenizer.check_fits(tokenizer.vocabulary)
    with pytest.raises(TokenizerError, match=r"1024 tokens, and the model's embedding has 1023 rows"):
        tokenizer.check_fits(1023)


@pytest.mark.parametrize(("content", "message"), [(None, "found none"), (b"", "0 bytes"), (b"hello", "5 bytes that")])
def test_a_bad_file_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "x.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerError) as error:
        Tokenizer(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and this package's own model in place of PaliGemma's."""
    content = TOKENIZER_PATH.read_bytes()
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paligemma, "SHA256", hashlib.sha256(content).hexdigest())
    return content


def _serve(monkeypatch, answer):
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(paligemma.urllib.request, "urlopen", urlopen)
    return asked


def test_paligemma_is_fetched_once(cache, monkeypatch):
    asked = _serve(monkeypatch, cache)
    assert paligemma_tokenizer().vocabulary == 1024
    assert paligemma_tokenizer().vocabulary == 1024
    assert asked == ["https://storage.googleapis.com/big_vision/paligemma_tokenizer.model"]
    assert [path.name for path in paligemma_path().parent.iterdir()] == ["paligemma_tokenizer.model"]


def test_paligemma_put_there_by_hand_needs_no_network(cache, monkeypatch):
    asked = _serve(monkeypatch, urllib.error.URLError("no network"))
    paligemma_path().parent.mkdir(parents=True)
    paligemma_path().write_bytes(cache)
    paligemma_tokenizer()
    assert not asked


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (urllib.error.URLError("no network"), "could not be fetched (no network)"),
        (TimeoutError("timed out"), "could not be fetched (timed out)"),
        (b"<html>", "gave 6 bytes that are not PaliGemma's tokenizer"),
    ],
)
def test_without_paligemma_the_error_says_what_to_do(cache, monkeypatch, answer, message):
    _serve(monkeypatch, answer)
    with pytest.raises(TokenizerError) as error:
        paligemma_tokenizer()
    assert message in str(error.value)
    assert f"download {paligemma.URL} where there is a network, and put it at {paligemma_path()}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not paligemma_path().exists()


def test_another_file_in_paligemmas_place_is_refused(cache, monkeypatch):
    asked = _serve(monkeypatch, cache)
    paligemma_path().parent.mkdir(parents=True)
    paligemma_path().write_bytes(cache[:-1])
    with pytest.raises(TokenizerError, match="is not PaliGemma's tokenizer"):
        paligemma_tokenizer()
    assert not asked
