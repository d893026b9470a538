"""The eight semantic classes of Stanford Background (Gould et al., ICCV 2009), for every dataset that uses them."""

from neuralef.datasets.base import SemanticClass

SCENE_CLASSES: tuple[SemanticClass, ...] = (
    SemanticClass("sky", (135, 206, 235)),
    SemanticClass("tree", (34, 100, 34)),
    SemanticClass("road", (110, 110, 115)),
    SemanticClass("grass", (124, 190, 60)),
    SemanticClass("water", (40, 90, 180)),
    SemanticClass("building", (190, 120, 90)),
    SemanticClass("mountain", (130, 110, 90)),
    SemanticClass("foreground object", (220, 50, 120)),
)
