"""The version of the package, for whatever names it. By itself, so that the package's front door is no part of what lies behind it."""

__version__ = "0.2.0.dev0"
