"""What comes with Flash-MoE to measure models on: a test set of tool calls, JSON and more, and a held-out text.

Made by training/ from a seed. Where the files lie is all that is known here.
"""

from pathlib import Path

CASES = Path(__file__).with_name("test.jsonl")
TEXT = Path(__file__).with_name("validation.txt")
