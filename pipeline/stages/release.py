"""Stage `release`: a trained head's model for use, with thresholds, processor, graph and card, and its place in MLflow's registry."""

from dataclasses import replace
from pathlib import Path

from calm.audio.encoder_states import WEIGHTS
from calm.audio.features import ENCODER
from calm.corpora.utterances import read_table
from calm.inference import onnx_export
from calm.inference.processing import CalmProcessor
from calm.models.language_model import load_tokenizer
from calm.models.modeling import CalmForSequenceClassification
from calm.models.text_encoders import places
from calm.storage import read_json, write_json
from pipeline import feature_extractors, model_card, paths
from pipeline.evaluation import released as evaluated
from pipeline.evaluation.released import Released
from pipeline.heads.conditions import Condition, released
from pipeline.heads.networks import TASK
from pipeline.settings import Settings
from pipeline.stage import measure, whole
from pipeline.state import Visible, address, visible
from pipeline.tracking import registry
from pipeline.tracking.tracker import stage_run


def run(settings: Settings, name: str) -> str:
    """Write the model of one entry of `heads`, and register it; returns what was done in a few words."""
    seen = visible(settings, "release", name)
    heads = seen.heads[name]
    folder = paths.model(heads.corpus, heads.model)
    if not heads.release:
        with whole(folder) as partial:
            (partial / "README.txt").write_text(f"heads.{name}.release is false: no model is kept.\n", encoding="utf-8")
        return f"{name}: no model is kept (release: false)"
    condition, seed = released(heads, seen.head), seen.seeds[0]
    columns = {"variant": condition.name, "lm": seen.lm[heads.model], "modality": condition.modality, "seed": seed}
    predictions = evaluated.read(paths.evaluation(heads.corpus), columns)
    figures = evaluated.figures(predictions, seen.evaluate.bootstrap, seed)
    synthetic = seen.is_synthetic([heads.corpus])
    with stage_run(seen, heads.corpus, {"heads": heads}, synthetic, seed) as tracked:
        with whole(folder) as partial:
            write(seen, name, condition, columns, predictions, figures, partial)
        tags = {**{key: str(value) for key, value in columns.items()}, "calm.synthetic": str(synthetic).lower()}
        kind = "argmax" if seen.head.decision == "argmax" else "tuned"
        validation = predictions.tables["validation"].rename(columns={f"decided_{kind}": "decided"})
        validation = validation[["id", "speaker", "targets", "decided"]].drop_duplicates("id")  # which several folds may validate
        registered = registry.register(
            tracked,
            heads.corpus,
            folder,
            validation,
            tags,
            model_card.body(folder),
            samples=seen.evaluate.bootstrap,
            seed=seed,
            newest=seen.tracking.champion == "newest",
        )
        measure(address("release", name), mlflow_run=tracked.id)
    return f"{folder}: {registered}"


def write(
    settings: Visible, name: str, condition: Condition, columns: dict, predictions: Released, figures: list[dict], folder: Path
) -> None:
    """Weights with thresholds, processor, graph, `release.json` and the card."""
    heads = settings.heads[name]
    trained = paths.heads(heads.corpus, heads.model)
    network = CalmForSequenceClassification.from_pretrained(trained / "network")
    network.config.thresholds = {TASK: predictions.thresholds.tolist()}
    network.config.decisions = {TASK: settings.head.decision}
    if predictions.temperature is not None:
        network.config.temperatures = {TASK: predictions.temperature}
    network.save_pretrained(folder)
    tokenizer = load_tokenizer(settings.models[heads.model].language_model)
    most = min(settings.head.max_tokens, places(network.calm.language_model))
    functionals, longest = network.config.head_functionals, model_card.longest(read_table(paths.utterances(heads.corpus)))
    spectran = settings.spectran.model_copy(update={"normalise": condition.row.normalise or settings.spectran.normalise})
    extractor = feature_extractors.extractor(spectran, [heads.corpus], most, functionals, settings.head.average_speeds, longest)
    if settings.spectran.frames == ENCODER:
        states = extractor.frame_extractor
        if not condition.random and (trained_along := paths.calp(heads.model) / WEIGHTS).exists():
            states = replace(states, encoder=str(trained_along))
        onnx_export.write_encoder(states, folder)
        extractor.encoder = model_card.public_name(extractor.encoder)
    CalmProcessor(extractor, tokenizer).save_pretrained(folder)
    onnx_export.write(network.eval(), folder)
    head = {key: columns[key] for key in ("variant", "modality", "seed")}
    write_json(head, folder / "release.json")
    curve = next(entry for entry in read_json(trained / "curves.json") if head.items() <= entry.items() and not entry.get("fold"))
    model_card.write(settings, name, network.config, curve, figures, folder)
