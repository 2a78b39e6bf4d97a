"""What comes with Flash-MoE: a small trained model (`directory`), and to measure models on, a test set of tool calls,
JSON and more, a held-out text, and the routing of the demo model on some of the cases.

Made by training/ from a seed, the routing by benchmarks/routing.py. Where the files lie is all that is known here.
"""

from pathlib import Path

CASES = Path(__file__).with_name("test.jsonl")
TEXT = Path(__file__).with_name("validation.txt")
TRACE = Path(__file__).with_name("routing.npz")
