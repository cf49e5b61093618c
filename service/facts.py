"""What GET /info tells: the model, the engine and the limits."""

from __future__ import annotations

from importlib.metadata import version

from pydantic import BaseModel, Field

from glc.runtime.codec import Codec
from glc.runtime.messages import one_line
from glc.service.limits import Limits


class ModelFacts(BaseModel):
    """The model that the service has."""

    label: str
    model_id: str = Field(description="First 8 hexadecimal digits; streams of other models are refused.")
    arithmetic: str = Field(description="exact: streams decode anywhere; float: on this engine only.")
    parameters: int
    highest_quality: int = Field(description="Qualities run from 0 to this.")
    encoders: tuple[str, ...] = Field(description="Any of them makes streams that any decoder decodes.")
    decoders: tuple[str, ...]


class LimitFacts(BaseModel):
    """What the service takes."""

    body_bytes: int
    pixels: int
    workers: int = Field(description="Images coded at once.")
    queue: int = Field(description="Further requests that may wait.")
    connections: int
    request_s: float
    receive_s: float


class Facts(BaseModel):
    """The service."""

    version: str = Field(description="Of glc-deploy.")
    model: ModelFacts
    engine: str
    limits: LimitFacts


class Health(BaseModel):
    """Whether the service answers."""

    status: str = Field(examples=["ok"])


def facts(codec: Codec, limits: Limits) -> Facts:
    """What is true of a service as long as it runs."""
    manifest = codec.bundle.manifest
    return Facts(
        version=version("glc-deploy"),
        model=ModelFacts(
            label=one_line(manifest.label),
            model_id=manifest.model_id[:8],
            arithmetic=manifest.arithmetic,
            parameters=manifest.parameters,
            highest_quality=codec.qualities - 1,
            encoders=codec.encoders,
            decoders=codec.decoders,
        ),
        engine=codec.engine,
        limits=LimitFacts(
            body_bytes=limits.body_bytes,
            pixels=limits.pixels,
            workers=limits.workers,
            queue=limits.queue,
            connections=limits.connections,
            request_s=limits.request_s,
            receive_s=limits.receive_s,
        ),
    )
