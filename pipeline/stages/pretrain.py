"""Multimodal pretraining (4.5): the transformer of the language model learns masked words and masked audio, equation 3."""

from functools import partial
from pathlib import Path

import torch

from calm.audio.encoder_states import load_encoder
from calm.data.batching import MaskingCollator, SequenceCollator, tokenise
from calm.data.examples import Examples
from calm.data.ragged import Ragged
from calm.models.language_model import load_language_model, load_mlm_head, load_tokenizer, special_ids
from calm.models.modeling import CalmForContrastivePretraining, CalmForMaskedPretraining, count
from calm.models.text_encoders import places
from calm.storage import write_json
from calm.training.forward import losses
from calm.training.loop import train
from pipeline import factory, paths
from pipeline.settings import Pretrain, Settings
from pipeline.stage import checkpoints, measure, whole
from pipeline.state import Visible, address, visible
from pipeline.tracking.tracker import TrackedRun, stage_run


def run(settings: Settings, name: str) -> str:
    """Pretrain the model `name`; writes its weights and `metrics.json`."""
    seen = visible(settings, "pretrain", name)
    corpora, seed = seen.pretraining, seen.seeds[0]
    params = {"pretrain": seen.pretrain, "model": seen.models[name], "corpora": corpora}
    data = [paths.calp(name), paths.encoded(name)] + [paths.texts(corpus) for corpus in corpora]
    with (
        checkpoints(settings, "pretrain", name, *data) as work,
        stage_run(seen, name, params, seen.is_synthetic(corpora), seed) as tracked,
        whole(paths.pretrained(name)) as folder,
    ):
        metrics = pretrain(seen, name, work, tracked, folder)
        write_json(metrics, folder / "metrics.json")
        tracked.artifact(folder / "metrics.json")
        measure(address("pretrain", name), device=str(factory.device()), mlflow_run=tracked.id)
    validation = metrics["validation"]
    words = f"words {validation['mlm']:.2f}, " if "mlm" in validation else ""
    return (
        f"{name}: {len(metrics['curve'])} epochs; held-out losses: {words}audio {validation['mam']:.3f}, "
        f"its middle frames {validation['mam_middle']:.3f}"
    )


def pretrain(settings: Visible, name: str, work: Path, tracked: TrackedRun, folder: Path) -> dict:
    """Train and save the model to `folder`; returns the metrics."""
    corpora, seed, section = settings.pretraining, settings.seeds[0], settings.pretrain
    examples = factory.examples(settings, corpora, encoder=load_encoder(paths.calp(name)), work=work)
    tokenizer = load_tokenizer(settings.models[name].language_model)
    torch.manual_seed(seed)
    model = multimodal(settings, name, tokenizer, corpora)
    encoded = None if section.train_spectran else factory.encoded(name, examples, corpora, work)
    collator = masked(section, examples, encoded, tokenizer, places(model.calm.language_model))
    rows, held_out = examples.rows("train"), examples.rows("validation")
    curve = train(
        model,
        rows,
        collator,
        factory.schedule(section),
        work,
        seed,
        held_out=held_out,
        lengths=sum(collator.sequences.lengths(rows)),
        ids=examples.table["id"].to_numpy(),
        log=partial(tracked.training, objective="masked"),
        title=f"MLM + MAM {name}",
    )
    validation = losses(model, held_out, collator, section.batch)
    if section.modality == "audio":
        validation.pop("mlm_loss")  # no word is masked
    metrics = {
        "language_model": settings.models[name].language_model,
        "corpora": corpora,
        "synthetic": settings.is_synthetic(corpora),
        "seed": seed,
        "hours": factory.hours(corpora),
        "flops": factory.flops(model, collator, rows, section),
        "curve": [_entry(entry, "validation_") for entry in curve],
        "validation": _entry(validation),
        "parameters": parameters(model),
        "cut": cut(collator.sequences, rows),
    }
    model.save_pretrained(folder)
    return metrics


def masked(section: Pretrain, examples: Examples, encoded: Ragged | None, tokenizer, most: int) -> MaskingCollator:
    """Batches with masked words and blocks. `most`: tokens that the language model has places for."""
    tokens = tokenise(tokenizer, examples.table["text"])
    sequences = SequenceCollator(examples.frames, tokens, encoded, section.modality, most=min(section.max_tokens, most))
    return MaskingCollator(
        sequences,
        tokenizer.mask_token_id,
        tuple(tokenizer.all_special_ids),
        len(tokenizer),
        section.mask_words,
        section.mask_audio,
        section.mask_audio_span,
        section.mask_audio_of,
        section.mask_audio_draw,
        section.mask_style,
    )


def multimodal(settings: Visible, name: str, tokenizer, corpora: list[str]) -> CalmForMaskedPretraining:
    """The model with the language model's weights, its masked-word head where it has one, and SpecTran after CALP."""
    contrastive = CalmForContrastivePretraining.from_pretrained(paths.calp(name))
    trained = paths.calp(name) / "language_model"
    language_model = load_language_model(
        str(trained) if trained.exists() else settings.models[name].language_model,
        None if trained.exists() else settings.models[name].layers,
    )
    config = factory.config(settings, language_model, corpora, contrastive.config.channels, **special_ids(tokenizer))
    model = CalmForMaskedPretraining(config)
    model.calm.language_model.load_state_dict(language_model.state_dict())
    model.calm.spectran.load_state_dict(contrastive.spectran.state_dict())
    model.calm.spectran.requires_grad_(settings.pretrain.train_spectran)
    model.mlm_head.load_state_dict(load_mlm_head(settings.models[name].language_model), strict=False)
    return model


def parameters(model: CalmForMaskedPretraining) -> dict[str, int]:
    """Parameters of the language model, of CALM besides it, and of all."""
    language_model = model.calm.language_model
    return {"language_model": count(language_model), "calm_besides_language_model": count(model, language_model), "all": count(model)}


def cut(sequences: SequenceCollator, rows) -> dict[str, int]:
    """What did not fit in the most tokens of the transformer, over the training split."""
    tokens, blocks = sequences.lengths(rows)
    lost_tokens, lost_blocks = sequences.tokens.lengths[rows] - tokens, sequences.frames.blocks[rows] - blocks
    cut_rows = int(((lost_tokens > 0) | (lost_blocks > 0)).sum())
    return {"utterances": cut_rows, "tokens": int(lost_tokens.sum()), "blocks": int(lost_blocks.sum())}


def _entry(losses: dict, prefix: str = "") -> dict:
    names = {"mlm_loss": "mlm", "mam_loss": "mam", "mam_middle_loss": "mam_middle"}
    shared = {key: losses[key] for key in ("epoch", "loss") if key in losses}
    return shared | {short: losses[prefix + key] for key, short in names.items() if prefix + key in losses}
