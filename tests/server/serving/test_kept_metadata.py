"""What a client says of an episode is refused on the wire where neither the store nor an export of it can keep it."""

from __future__ import annotations

import pytest
from vlascope_client.codec import pack
from vlascope_server.serving.errors import RequestError
from vlascope_server.serving.messages import read_request


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"request": "end_episode", "episode": "a", "metadata": {"": 1}}, "metadata: expected names of text, at least one"),
        ({"request": "end_episode", "episode": "a", "metadata": {"told": "a\0b"}}, "without NUL"),
        ({"request": "end_episode", "episode": "a", "metadata": {b"told": 1}}, "expected names of text, found bytes"),
        ({"request": "end_episode", "episode": "a", "metadata": {"success": 1}}, "is taken; so are "),
        ({"request": "begin_episode", "episode": {"id": "a", "metadata": {"told": ["\0"]}}}, "episode.metadata: "),
        ({"request": "begin_episode", "episode": {"id": "a", "task_name": "a\0b"}}, "episode.task_name: "),
        ({"prompt": "a\0b"}, "prompt: expected text without NUL, found '\\x00' at character 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept(message, said):
    with pytest.raises(RequestError) as error:
        read_request(pack(message))
    assert said in error.value.message
