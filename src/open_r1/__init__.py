"""An open reproduction of DeepSeek-R1 on top of TRL."""

from __future__ import annotations

__version__ = "0.1.0"
