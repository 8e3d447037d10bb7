"""Client of the policy server: the wire protocol, a policy client, action chunking.

Knows nothing of models, of stores or of simulations.
"""

from importlib.metadata import version as _version

from vlascope_client.async_client import AsyncPolicyClient
from vlascope_client.chunks import ActionChunkBroker, ActionStep, AsyncActionChunkBroker
from vlascope_client.client import PolicyClient
from vlascope_client.errors import (
    EpisodeInterruptedError,
    PolicyClientError,
    PolicyConnectionError,
    PolicyError,
    PolicyTimeoutError,
    ProtocolError,
    SpecMismatchError,
)
from vlascope_client.replies import EpisodeBegun, EpisodeReceipt, LatentsTicket, PolicyReply, ServerStatus
from vlascope_client.servers import Backoff
from vlascope_client.spec import ExpectedSpec, PolicySpec

__all__ = [
    "ActionChunkBroker",
    "ActionStep",
    "AsyncActionChunkBroker",
    "AsyncPolicyClient",
    "Backoff",
    "EpisodeBegun",
    "EpisodeInterruptedError",
    "EpisodeReceipt",
    "ExpectedSpec",
    "LatentsTicket",
    "PolicyClient",
    "PolicyClientError",
    "PolicyConnectionError",
    "PolicyError",
    "PolicyReply",
    "PolicySpec",
    "PolicyTimeoutError",
    "ProtocolError",
    "ServerStatus",
    "SpecMismatchError",
    "__version__",
]

__version__ = _version("vlascope-client")
