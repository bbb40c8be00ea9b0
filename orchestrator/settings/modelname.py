"""The name of a registered model: `NAME` or `NAME@ALIAS`, as MLflow writes it in `models:/NAME@ALIAS`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from headmask.errors import ConfigError

DEFAULT_ALIAS = "challenger"
"""The alias if none is given, so that nobody's production model changes unasked."""


@dataclass(frozen=True)
class ModelName:
    """A model's name in MLflow's registry, and the alias that its new version gets."""

    name: str
    alias: str = DEFAULT_ALIAS

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the name that a text gives.

        Raises:
            ConfigError: MLflow does not accept it as a name.
        """
        name, is_given, alias = text.partition("@")
        alias = alias if is_given else DEFAULT_ALIAS
        is_reserved = alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias)
        if not re.fullmatch(r"\w[\w .-]*", name) or not re.fullmatch(r"[\w-]+", alias) or is_reserved:
            raise ConfigError(
                "a registered model is called NAME or NAME@ALIAS, of letters, digits, dots, dashes and underscores, "
                f"such as clip@champion, its alias neither latest nor v1; got {text!r}"
            )
        return cls(name, alias)

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}"

    @property
    def uri(self) -> str:
        """URI for `mlflow.pyfunc.load_model`."""
        return f"models:/{self}"
