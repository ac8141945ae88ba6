"""Labelled clips for training and evaluation: rendered, in folders, or named by annotation files. No torch here."""

from .dataset import Clip, ClipDataset, Sample, VideoDataset
from .opening import open_dataset

__all__ = ["Clip", "ClipDataset", "Sample", "VideoDataset", "open_dataset"]
