"""Who this is."""

from importlib.metadata import version

VERSION = version("kar-sdk")
SDK = f"kar-sdk-python/{VERSION}"
"""As the sidecar is told."""
