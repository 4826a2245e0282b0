"""The acoustic tokens of every corpus under the frozen SpecTran, computed once; nothing where SpecTran is trained along."""

from calm.modeling import CalmForContrastivePretraining
from calm.training import acoustic_tokens
from pipeline import build, command, paths
from pipeline.settings import Settings


def corpora_of(settings: Settings, name: str) -> list[str]:
    """Corpora whose tokens later stages read: those of the pretraining and those whose labels are learned."""
    return list(dict.fromkeys([*settings.pretraining_corpora(name), *settings.targets]))


def run(settings: Settings, name: str) -> str:
    """Write `<corpus>.parquet` for every corpus of the model `name`."""
    with command.whole(paths.tokens(name)) as folder:
        if settings.pretrain.train_spectran:
            (folder / "README.txt").write_text("SpecTran is trained along (pretrain.train_spectran), so no tokens are kept.\n")
            return f"{name}: SpecTran is trained along, no tokens are kept"
        spectran = CalmForContrastivePretraining.from_pretrained(paths.calp(name)).spectran.to(build.device())
        blocks = 0
        for corpus in corpora_of(settings, name):
            examples = build.examples(settings, [corpus])
            tokens = acoustic_tokens(spectran, examples.logmels)
            tokens.write(folder / f"{corpus}.parquet", list(examples.table["id"]))
            blocks += len(tokens.values)
    return f"{name}: {blocks} acoustic tokens"


if __name__ == "__main__":
    command.start(run, model=lambda settings: settings.models)
