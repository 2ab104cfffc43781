"""What closes a web application on this machine to other pages in the same browser; any ASGI application."""

from webguard.guard import Guard, Headers, Refusal, Scope
from webguard.hosts import AllowedHosts

__all__ = ["AllowedHosts", "Guard", "Headers", "Refusal", "Scope"]
