"""Speed and memory beside a plain implementation of the same thing, both measured in one run: ``make bench``."""
