"""A typed client of the AAP prediction service, and the types of its requests and responses.

It needs httpx and msgspec alone: `from aap_client import Client`.
"""

from aap_client.client import AsyncClient, CallRefused, Client

__all__ = ["AsyncClient", "CallRefused", "Client", "__version__"]

__version__ = "0.1.0"
