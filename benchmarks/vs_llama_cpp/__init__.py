"""Flash-MoE beside llama.cpp: the same layer shapes, the same machine, the same minutes.

Figures: docs/measurements/performance.md.
"""
