"""The stages, their settings and their tracking: thin code around `calm`."""
