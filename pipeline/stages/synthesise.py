"""The embedded default's corpora: synthetic speech in a real corpus's layout."""

import argparse
import sys

from calm.corpora import CorpusError
from pipeline import settings
from pipeline.settings import Synthetic


def run(corpus: Synthetic, workers: int | None = None) -> float:
    """Make one corpus at `corpus.path`; returns its seconds of speech."""
    return corpus.make(
        corpus.path, corpus.format, corpus.utterances, corpus.speakers, label_noise=corpus.label_noise, seed=corpus.seed, workers=workers
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True, metavar="NAME", help="one of `synthetic` in params.yaml")
    name = parser.parse_args().corpus
    known = settings.load_or_exit().synthetic
    if name not in known:
        sys.exit(f"--corpus {name}: none of params.yaml's synthetic corpora ({', '.join(known) or 'there are none'})")
    try:
        seconds = run(known[name])
    except CorpusError as error:
        sys.exit(str(error))
    print(f"{name}: {known[name].utterances} utterances, {seconds / 60:.1f} min of synthetic speech in {known[name].path}")


if __name__ == "__main__":
    main()
