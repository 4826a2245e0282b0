"""The error of corpora, apart from the registry: what imports only this does not depend on the list of formats."""


class CorpusError(ValueError):
    """A corpus that cannot be used: missing, laid out differently, or with too few usable rows. One sentence that says what to do."""
