"""Labelled clips for training and evaluation: rendered, in folders, or named by annotation files. No torch here."""

from .dataset import NO_LABEL, Clip, ClipDataset, Sample, VideoDataset
from .opening import open_dataset

__all__ = ["NO_LABEL", "Clip", "ClipDataset", "Sample", "VideoDataset", "open_dataset"]
