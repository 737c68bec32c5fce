"""Checkpoints: parameters, configuration and the state of a training in one file, and a folder of such files.

The file is of the format safetensors, which other programs read too: arrays by names such as ``params.l0.W_ih``. What
else there is, and how it all goes together, is JSON in the file's metadata, under "xprnn". Nothing in a file can run:
there is no pickle, and classes are looked up in the table of `xprnn.registry`.
"""

from xprnn.checkpoint.content import Checkpoint
from xprnn.checkpoint.file import CheckpointError, load, save
from xprnn.checkpoint.folder import Folder

__all__ = ["Checkpoint", "CheckpointError", "Folder", "load", "save"]
