"""Does the program in a completion pass its tests?"""

from .scorers import code, code_fraction, code_subtasks, run_program

__all__ = ["code", "code_fraction", "code_subtasks", "run_program"]
