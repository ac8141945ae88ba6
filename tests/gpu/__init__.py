"""Tests on a real NVIDIA GPU, marked ``gpu``: skipped with the reason where there is none."""
