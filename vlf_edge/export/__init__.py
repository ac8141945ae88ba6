"""A plan's graphs and engines as plain files, for programs that are not vlf_edge: any ONNX tool, trtexec, Triton.

>>> write_folder("out", onnx_folder(Plan.open("vlf.plan"), "portable"))

Nothing is computed here: what is written was in the plan. So neither torch nor onnx nor a GPU is needed.
"""

from .engines import raw_folder
from .folder import Folder, check_place, write_folder
from .graphs import onnx_folder
from .triton import triton_folder

__all__ = ["Folder", "check_place", "onnx_folder", "raw_folder", "triton_folder", "write_folder"]
