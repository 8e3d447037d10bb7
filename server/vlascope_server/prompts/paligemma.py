"""PaliGemma's tokenizer file, which the published Pi0 checkpoints use: fetched once, then kept.

Knows nothing of prompts. The file is Google's, 4 MB, public, and no part of this package.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from vlascope_base.cache import TOKENIZER, cache_folder
from vlascope_base.files import make_folders, replace_file

from vlascope_server.prompts.tokenizer import Tokenizer, TokenizerError

URL = "https://storage.googleapis.com/big_vision/paligemma_tokenizer.model"
SHA256 = "8986bb4f423f07f8c7f70d0dbe3526fb2316056c17bae71b1ea975e77a168fc6"
"""Of 4,264,023 bytes; the same file as tokenizer.model of google/paligemma-3b-pt-224 on Hugging Face."""
_TIMEOUT_SECONDS = 30


def paligemma_path() -> Path:
    """Where the file is kept, below the cache folder."""
    return cache_folder() / TOKENIZER


def paligemma_tokenizer(state_dim: int | None = None) -> Tokenizer:
    """PaliGemma's tokenizer, fetched on first use; `state_dim` as `Tokenizer` takes it.

    Raises:
        TokenizerError: it is not there and could not be fetched, or it is another file; says where to put it by hand.
    """
    path = paligemma_path()
    if not path.exists():
        _fetch(path)
    elif (found := hashlib.sha256(path.read_bytes()).hexdigest()) != SHA256:
        raise TokenizerError(
            f"{path}: is not PaliGemma's tokenizer (sha256 {found[:12]}…, expected {SHA256[:12]}…);"
            " delete it, and it is fetched again"
        )
    return Tokenizer(path, state_dim)


def _fetch(path: Path) -> None:
    by_hand = f"download {URL} where there is a network, and put it at {path}"
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT_SECONDS) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise TokenizerError(f"{path}: PaliGemma's tokenizer could not be fetched ({reason}); {by_hand}") from None
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise TokenizerError(
            f"{path}: {URL} gave {len(content)} bytes that are not PaliGemma's tokenizer (sha256 {found[:12]}…,"
            f" expected {SHA256[:12]}…); {by_hand}"
        )
    make_folders(path.parent)
    replace_file(path, content)
