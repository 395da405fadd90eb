"""The identity of a graph in a Ray cluster: `<product>@<digest>`, the multiplexed model id of Ray Serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from service.bundle.bundle import Bundle

_VERSION_DIGITS = 12


@dataclass(frozen=True)
class GraphId:
    """Names the graph of a bundle by the digest of its bundle, so that it never stands for another graph.

    Attributes:
        product: The product.
        digest: Digest of the bundle, which covers the hash of the graph.
    """

    product: str
    digest: str

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Return the identity of a bundle's graph."""
        return cls(bundle.manifest.product, bundle.digest)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form.

        Raises:
            ValueError: It is not `<product>@<digest>`.
        """
        product, at, digest = text.rpartition("@")
        if not (product and at and len(digest) > _VERSION_DIGITS):
            raise ValueError(f"{text!r} is not the identity of a graph; expected <product>@<digest of the bundle>")
        return cls(product, digest)

    @property
    def version(self) -> str:
        """Return the version of the bundle."""
        return self.digest[:_VERSION_DIGITS]

    def __str__(self) -> str:
        return f"{self.product}@{self.digest}"
