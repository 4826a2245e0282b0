"""Settings are read and checked before any work, and what each stage depends on is written down.

For every stage `data/state/<stage>.json` holds the settings that it sees and a digest of its code (`pipeline/state.py`). For every corpus
that is not made here, `data/fingerprints/<corpus>` holds the number, the sizes and the times of its files, through links.
"""

import json
import shutil
import sys
from pathlib import Path

from calm.corpora.fingerprint import fingerprint
from calm.storage import read_json, write_json, write_sums
from pipeline import paths, state
from pipeline.execution import gpus
from pipeline.settings import Settings, load_or_exit
from pipeline.settings.models import NO_CORPUS


def run(settings: Settings) -> None:
    """Write a file a stage and two files a corpus, and remove those of stages and corpora that are gone.

    Raises ValueError if `compute` asks for GPUs that this machine does not have, or if the speech encoder is to be trained and is of a
    family that cannot be.
    """
    for stage in settings.compute.devices:  # by default there are none, and PyTorch need not be imported
        if message := gpus.too_few(settings.compute, stage):
            raise ValueError(message)
    if settings.trains_encoder():
        from calm.audio.speech_encoders import family
        from calm.models.encoder_blocks import check_family

        check_family(family(settings.features.encoder))
    addresses = {address: state.state(settings, stage, name) for stage, name, address in state.addresses(settings)}
    for address, content in addresses.items():
        _write(content, paths.state(address))
    _remove(paths.STATE, {paths.state(address) for address in addresses})
    real = [name for name in settings.corpora if name not in settings.synthetic]
    for name in real:
        corpus = settings.corpora[name]
        for part, content in fingerprint(corpus.format, corpus.path, corpus.options).items():
            _write(content, paths.fingerprint(name) / f"{part}.json")
        write_sums(paths.fingerprint(name))
    _remove(paths.FINGERPRINTS, {paths.fingerprint(name) for name in settings.corpora})
    if not all(map(settings.pretraining_corpora, settings.models)):
        for folder in (paths.features(NO_CORPUS), paths.texts(NO_CORPUS), paths.utterances(NO_CORPUS).parent):
            _note(folder / "README.txt")
    paths.transfer("").mkdir(parents=True, exist_ok=True)  # the report depends on it, also where nothing is transferred


def _note(file: Path) -> None:
    """What stands in dvc.yaml for the corpora of a model without pretraining: DVC warns of empty folders."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("No corpus: what a model with pretrain_on: none depends on.\n", encoding="utf-8")


def _write(content: dict, path: Path) -> None:
    """Write JSON, but leave a file that says the same as it is: DVC need not look at it again."""
    if not path.exists() or read_json(path) != json.loads(json.dumps(content)):
        write_json(content, path)


def _remove(folder: Path, kept: set[Path]) -> None:
    """Remove what lies in a folder and is not among those kept."""
    for path in set(folder.glob("*")) - kept:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    try:
        run(load_or_exit())
    except ValueError as error:
        sys.exit(f"{error}\nNothing was run.")
