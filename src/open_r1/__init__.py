"""An open reproduction of DeepSeek-R1 on top of TRL."""

__version__ = "0.1.0"
