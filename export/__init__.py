"""Checkpoint to bundle: the torch model, its ONNX graphs and the tables. Needs torch and onnx."""

from glc.export.bundle_writer import export_bundle
from glc.export.checkpoint import load_checkpoint
from glc.export.graph_files import GraphReport
from glc.export.model import GlcModel
from glc.export.reference import Reference, reference
from glc.export.synthetic import synthetic_model

__all__ = [
    "GlcModel",
    "GraphReport",
    "Reference",
    "export_bundle",
    "load_checkpoint",
    "reference",
    "synthetic_model",
]
