"""How `neuralef.datasets.synthetic` paints a scene: stage, nature, built things, composition."""
