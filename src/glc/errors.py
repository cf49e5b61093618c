"""Every exception that this package raises for a reason outside the caller's code.

GlcError
├── BundleError
│   ├── BundleNotFound          no such file or directory
│   ├── BundleInvalid           no manifest, or one that does not follow docs/bundle.md
│   ├── BundleTooNew            written by a later version of this software
│   ├── BundleAltered           a file is missing, or its SHA-256 is not the manifest's
│   ├── TargetMissing           nothing in it was compiled for this device and library
│   └── TilesMissing            it has no graphs for images in tiles
├── EngineError
│   ├── EngineUnavailable       the engine, its package, its device or its driver is not there
│   ├── OutOfDeviceMemory       the device has no room for the graphs or the image
│   ├── MemoryLimitTooSmall     the image needs more memory than the caller allows
│   ├── EngineRejectedGraph     the engine cannot load a graph
│   ├── EngineNotExact          the engine gets a bit of an exact graph wrong
│   ├── OpenedBeforeFork        the codec belongs to the parent of this process
│   └── EngineFailed            a run failed, or gave values that cannot be coded
├── BitstreamError
│   ├── NotABitstream           does not start like one
│   ├── BitstreamTooNew         a later version of the format
│   ├── TruncatedBitstream      ends too early
│   ├── CorruptBitstream        the checksum or the structure is wrong
│   ├── ModelMismatch           made with another model
│   ├── EngineMismatch          float arithmetic, made by another engine
│   └── ImageTooLarge           more pixels than the limit allows
├── ExportError
│   ├── CheckpointUnreadable    no such file, or not a checkpoint
│   ├── UnsafeCheckpoint        a pickle that holds more than tensors
│   ├── CheckpointMismatch      missing, unexpected or mis-shaped tensors
│   ├── FrozenShape             a size that must stay free was fixed
│   ├── GraphMismatch           a graph computes something else than the model
│   ├── BuilderUnavailable      no library here compiles for the target
│   └── BuildFailed             the library cannot compile a graph
├── FileError
│   ├── ImageUnreadable         not an image that can be read
│   │   └── TooManyPixels       more pixels than the limit allows
│   ├── OutputNotWritable       the output cannot be written
│   └── OutputTaken             the output folder belongs to another batch
└── AddressUnavailable          a service cannot listen where it should

A mistake in a call (wrong type, shape or range of an argument) is a TypeError or ValueError instead.
"""

from __future__ import annotations


class GlcError(Exception):
    """Base of all errors of this package; its message is one line that says what to do."""


class BundleError(GlcError):
    """A bundle cannot be used."""


class BundleNotFound(BundleError):
    """No file or directory has the bundle's path, or no path was given."""


class BundleInvalid(BundleError):
    """The manifest is missing or does not follow docs/bundle.md."""


class BundleTooNew(BundleError):
    """The bundle's schema is newer than this software."""


class BundleAltered(BundleError):
    """A file of the bundle is missing or differs from what the manifest states."""


class TargetMissing(BundleError):
    """The bundle holds no engine that was compiled for this device with this library, or lacks a graph for it."""


class TilesMissing(BundleError):
    """The bundle has no graphs that compute an image in tiles, which a limit on memory needs."""


class EngineError(GlcError):
    """An engine cannot do what was asked for."""


class EngineUnavailable(EngineError):
    """The engine that was asked for is unknown, or its package, device or driver is not there."""


class OutOfDeviceMemory(EngineError):
    """The device has no room for the graphs or the image."""


class MemoryLimitTooSmall(EngineError):
    """Even in tiles, the image needs more memory than the caller allows."""


class EngineRejectedGraph(EngineError):
    """The engine cannot load a graph, or finds other inputs and outputs than the manifest states."""


class EngineNotExact(EngineError):
    """The engine computes something else than the conformance cases of an exact graph: its streams would not decode."""


class OpenedBeforeFork(EngineError):
    """A forked process uses a codec of its parent, whose threads it does not have."""


class EngineFailed(EngineError):
    """A run failed or its result cannot be coded."""


class BitstreamError(GlcError):
    """A bitstream cannot be decoded."""


class NotABitstream(BitstreamError):
    """The data does not start with the signature."""


class BitstreamTooNew(BitstreamError):
    """The data follows a later version of the format."""


class TruncatedBitstream(BitstreamError):
    """The data ends before the image does."""


class CorruptBitstream(BitstreamError):
    """The checksum does not match, or a field holds an impossible value."""


class ModelMismatch(BitstreamError):
    """The stream was made with another model than the codec's."""


class EngineMismatch(BitstreamError):
    """The stream uses float arithmetic and was made by another engine."""


class ImageTooLarge(BitstreamError):
    """The image has more pixels than the codec's limit."""


class ExportError(GlcError):
    """A checkpoint cannot be exported."""


class CheckpointUnreadable(ExportError):
    """The checkpoint file is missing or is no checkpoint."""


class UnsafeCheckpoint(ExportError):
    """The checkpoint is a pickle with other things than tensors, which loading would execute."""


class CheckpointMismatch(ExportError):
    """The checkpoint's tensors are not those of the model that its shapes describe."""


class FrozenShape(ExportError):
    """A size that must stay free became a constant."""


class GraphMismatch(ExportError):
    """An exported graph differs from the torch model by more than the tolerance."""


class BuilderUnavailable(ExportError):
    """No library that is installed here compiles for the target."""


class BuildFailed(ExportError):
    """The library cannot compile a graph for the target."""


class FileError(GlcError):
    """A file cannot be read or written."""


class ImageUnreadable(FileError):
    """The file is not an image that can be read."""


class TooManyPixels(ImageUnreadable):
    """The image has more pixels than the limit, and was not unpacked."""


class OutputNotWritable(FileError):
    """The output cannot be written."""


class OutputTaken(FileError):
    """The output folder of a batch was begun with other settings, or another process works in it."""


class AddressUnavailable(GlcError):
    """The address that a service should listen on is taken, not of this machine, or not allowed."""
