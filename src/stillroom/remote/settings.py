"""The block `train.api`: which service trains, what it trains, and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from stillroom.params import WEB, Endpoint, Settings


class Remote(Settings):
    """A fine-tuning service that trains instead of this machine."""

    dialect: Literal["openai", "together"] = "openai"
    """openai: /fine_tuning/jobs; together: /fine-tunes"""
    base_url: str | None = Field(default=None, pattern=WEB)
    """address of the service; null: endpoint.base_url"""
    api_key_env: str | None = None
    """environment variable that holds its key; null: the endpoint's, at the endpoint's address only"""
    model: str | None = None
    """the model to train, as the service calls it"""
    format: Literal["messages", "text"] = "messages"
    """messages: in the model's chat template; text (together): in common.chat_format, learned as a whole"""
    n_epochs: int | None = Field(default=4, ge=1)
    """passes over the records; null: the service's choice, as for all that follow"""
    batch_size: int | None = Field(default=32, ge=1)
    """records of one optimizer step"""
    learning_rate: float | None = Field(default=1e-5, gt=0)
    """peak learning rate; together only"""
    learning_rate_multiplier: float | None = Field(default=None, gt=0)
    """of the service's own learning rate; openai only, which knows no other setting"""
    suffix: str | None = Field(default=None, min_length=1, max_length=40)
    """part of the new model's name"""
    extra: dict[str, Any] = {}
    """further fields of the request that creates the job, as the service spells them"""
    price: float | None = Field(default=None, ge=0)
    """of a million tokens in one epoch, in the currency of endpoint.max_cost"""
    poll_seconds: float = Field(default=30.0, gt=0)
    """between two looks at the job"""

    @model_validator(mode="after")
    def _fits(self) -> Remote:
        if self.base_url is not None and self.api_key_env is None:
            raise ValueError("an address of its own needs an api_key_env of its own")
        if self.format == "text" and self.dialect == "openai":
            raise ValueError("the openai dialect takes messages only")
        return self

    def reached(self, endpoint: Endpoint) -> Endpoint:
        """How the service is reached: address and key from here or from the endpoint, patience from there."""
        if self.api_key_env is None:
            return endpoint
        own = {"api_key_env": self.api_key_env, "api_key_file": None}
        return endpoint.model_copy(update={**own, "base_url": self.base_url or endpoint.base_url})
