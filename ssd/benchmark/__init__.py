"""The measurements of `python -m ssd benchmark`; benchmarks/ holds scripts of published results."""
