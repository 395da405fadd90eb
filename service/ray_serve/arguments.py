"""Arguments of the application, from `args` in its configuration file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Arguments(BaseModel):
    """Arguments of the application. Everything else is a setting of the service, `PLUMBLINE_*`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    graphs_per_inspector: int = Field(default=16, ge=1, le=10_000)
    """Most graphs that one replica of `Inspector` keeps open. Beyond it, the least recently used one is closed."""
    runs_per_graph: int = Field(default=8, ge=1, le=64)
    """Runs of one graph that one replica of `Ingress` may have in progress at the same time. Together they should fill
    all replicas of `Inspector`.
    """
    loopback_only: bool = False
    """Whether only programs of the same machine reach Ray's proxy: `http_options.host` is `127.0.0.1`, and no other
    proxy is in front of it. Otherwise the service does not start without an API key or an account, unless
    `PLUMBLINE_INSECURE` is set.
    """
