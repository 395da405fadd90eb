"""Requests and responses of the Open Inference Protocol v2."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.common import PartFields, ResponseModel


class ServerMetadata(ResponseModel):
    """The server and the extensions that it supports."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(ResponseModel):
    """Whether the server is alive."""

    live: bool


class ServerReady(ResponseModel):
    """Whether the server can inspect images."""

    ready: bool


class ModelReady(ResponseModel):
    """Whether a product can be inspected."""

    name: str
    ready: bool


class TensorMetadata(ResponseModel):
    """An input or an output. -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(ResponseModel):
    """A product, its versions, inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InferTensor(BaseModel):
    """An input tensor. Its elements are in `data`, or follow the JSON document (`parameters.binary_data_size`)."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=128)
    datatype: str = Field(max_length=32)
    shape: list[int] = Field(max_length=8)
    parameters: dict[str, Any] = Field(default={})
    data: list[Any] | None = None


class InferOutput(BaseModel):
    """A requested output. `parameters.binary_data` requests its binary form."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=128)
    parameters: dict[str, Any] = Field(default={})


class InferParameters(PartFields):
    """Parameters of a request: the part, and the form of the outputs."""

    # Triton's clients send parameters of schedulers that Plumbline does not have; they have no effect here.
    model_config = ConfigDict(extra="ignore")

    binary_data_output: bool = False


class InferRequest(BaseModel):
    """An inference request."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(default=None, max_length=128)
    parameters: InferParameters = InferParameters()
    inputs: list[InferTensor] = Field(min_length=1, max_length=16)
    outputs: list[InferOutput] | None = Field(default=None, max_length=16)


class InferResult(ResponseModel):
    """An output tensor in the JSON document of a response."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class InferResponse(ResponseModel):
    """The response to an inference request. Binary tensors follow the JSON document."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferResult]


class InferError(ResponseModel):
    """An error of the Open Inference Protocol."""

    error: str
