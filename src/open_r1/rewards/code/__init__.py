"""Code: does a completion's program pass its tests?"""

from .scorers import code, code_fraction, code_subtasks, run_program

__all__ = ["code", "code_fraction", "code_subtasks", "run_program"]
