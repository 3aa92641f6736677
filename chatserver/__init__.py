"""chatserver: a multi-tenant session server for chat agents."""

__version__ = "0.1.0"
