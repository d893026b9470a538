"""All other notebooks, those of tables that vary something and of the studies, run whole at the smoke profile."""

from smoke import AtSmoke

from neuralef import notebooks


class TestStudies(AtSmoke):
    SOURCES = sorted(set(notebooks.sources()) - set(notebooks.sources("01", "1*", "90")))
