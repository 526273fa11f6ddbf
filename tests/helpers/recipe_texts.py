"""Recipes of tiny networks, and the runs that they ask for."""

from __future__ import annotations

from pathlib import Path

from hydra import initialize_config_dir

from pipeline.cli import recipes
from pipeline.config.arguments import arguments
from pipeline.config.networks import CONF
from pipeline.config.settings import Settings

ONE = "{extractor: timm, extractor.model: test_vit, extractor.weights: random}"


OTHER = (
    "{extractor: timm, extractor.model: test_vit, extractor.weights: random, extractor.seed: 1, extractor.name: other}"
)


def recipe(text: str, folder: Path) -> recipes.Recipe:
    path = folder / "mine.yaml"
    path.write_text(text)
    return recipes.read("mine", {"mine": path})


def jobs(read: recipes.Recipe, *given: str) -> list[list[Settings]]:
    """What a command line with these keys would do."""
    line = arguments(["catalogue_recipe=mine", *given])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return recipes.settings_of(read, line)
