"""Run Mixture-of-Experts language models larger than memory, streaming experts from the SSD."""
