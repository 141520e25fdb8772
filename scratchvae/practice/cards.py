"""A multiple-choice card, in both languages: what quiz, exam, review and drill ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Text = Mapping[str, str]  # {"en": ..., "ja": ...}

TOPICS = (
    *("ae", "dae", "vae", "reparameterization", "elbo"),
    *("latent", "uses", "strengths", "related"),
)


@dataclass(frozen=True)
class Option:
    """One choice. `mistake` names what whoever chooses it has done wrong, where that is known."""

    text: Text
    right: bool = False
    mistake: Text | None = None


@dataclass(frozen=True)
class Card:
    """One question with its options, of which one is right, and why.

    `code` is shown under the text, the same in both languages; `passage` above it, for linked
    questions; `drill` is the generator that asks the same with new numbers.
    """

    id: str
    topic: str
    kind: str
    lesson: str
    text: Text
    options: tuple[Option, ...]
    why: Text
    code: str = ""
    passage: Text | None = None
    passage_id: str | None = None
    drill: str | None = None
