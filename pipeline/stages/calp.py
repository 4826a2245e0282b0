"""CALP (4.3): train SpecTran against the frozen language model, with equation 2; then retrieve held-out texts and blocks."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from calm.audio.encoder_states import WEIGHTS
from calm.audio.features import ENCODER
from calm.audio.speech_encoders import SpeechEncoder, load_speech_encoder
from calm.data.batching import PairCollator, numbered, tokenise
from calm.data.examples import Examples, statistics
from calm.evaluation.probes import label_probe, speaker_probe
from calm.evaluation.retrieval import retrieval
from calm.inference.processing import CalmProcessor
from calm.models.encoder_blocks import EncoderBlocks
from calm.models.language_model import MOST_TOKENS, load_language_model, load_tokenizer, pool_text, text_vectors
from calm.models.modeling import CalmForContrastivePretraining, count
from calm.models.multimodal import ordinary_permissions
from calm.models.text_encoders import places
from calm.storage import read_json, write_json, write_parquet
from calm.training.loop import train
from pipeline import factory, feature_extractors, paths
from pipeline.execution import torchrun
from pipeline.settings import Settings
from pipeline.stage import checkpoints, measure, whole
from pipeline.state import Visible, address, visible
from pipeline.tracking.tracker import TrackedRun, stage_run


def run(settings: Settings, name: str) -> str:
    """Train CALP for the model `name`; writes its weights and `metrics.json`."""
    seen = visible(settings, "calp", name)
    model, corpora, seed = seen.models[name], seen.pretraining, seen.seeds[0]
    params = {"calp": seen.calp, "spectran": seen.spectran, "model": model, "corpora": corpora}
    data = [paths.features(corpus) for corpus in corpora] + [paths.texts(corpus) for corpus in corpora]
    data += [paths.utterances(corpus) for corpus in corpora]
    with (
        checkpoints(settings, "calp", name, *data) as work,
        stage_run(seen, name, params, seen.is_synthetic(corpora), seed) as tracked,
        whole(paths.calp(name)) as folder,
    ):
        metrics = calp(seen, name, work, tracked, folder)
        write_json(metrics, folder / "metrics.json")
        track(metrics["retrieval"], tracked)
        tracked.artifact(folder)
        measure(address("calp", name), device=str(factory.device()), mlflow_run=tracked.id)
    return summary(name, metrics)


def calp(settings: Visible, name: str, work: Path, tracked: TrackedRun, folder: Path) -> dict:
    """Train, retrieve, and save the model with its processor and the shared space to `folder`; returns the metrics."""
    model_settings, corpora, seed = settings.models[name], settings.pretraining, settings.seeds[0]
    examples = factory.examples(settings, corpora, work=work)
    language_model = load_language_model(model_settings.language_model, model_settings.layers).to(factory.device())
    tokenizer = load_tokenizer(model_settings.language_model)
    collator = pairs(settings, examples, language_model, tokenizer)
    torch.manual_seed(seed)
    model = contrastive(settings, language_model, corpora, examples.frames.channels).to(factory.device())
    curve, flops, encoder, retrieved, read = [], 0.0, None, [], []
    first = not torchrun.rank()  # of several processes, the one that writes
    if first:
        untrained, read = embedded(model, examples, collator), probes(model, examples, "before")
    if model_settings.aligned:
        curve, flops, encoder = align(settings, name, model, examples, collator, work, tracked)
        if encoder is not None:
            examples = factory.examples(settings, corpora, encoder=encoder, work=work)
            collator = replace(collator, frames=examples.frames)
    if model_settings.aligned and first:
        retrieved, read = retrieve(model, examples, collator), read + probes(model, examples, "after")
        write_parquet(space(examples, untrained, embedded(model, examples, collator)), folder / "space.parquet")
    metrics = {
        "language_model": model_settings.language_model,
        "layers": language_model.config.num_hidden_layers,
        "text_vector": settings.calp.text_vector,
        "corpora": corpora,
        "synthetic": settings.is_synthetic(corpora),
        "seed": seed,
        "hours": factory.hours(corpora),
        "flops": flops,
        "parameters": {"spectran": count(model.spectran), "projections": count(model, model.spectran)},
        "curve": curve,
        "retrieval": retrieved,
        "probes": read,
    }
    save(model, encoder, folder)
    extractor = feature_extractors.extractor(settings.spectran, corpora, min(MOST_TOKENS, places(language_model)))
    CalmProcessor(extractor, tokenizer).save_pretrained(folder)
    return metrics


def align(
    settings: Visible,
    name: str,
    model: CalmForContrastivePretraining,
    examples: Examples,
    collator: PairCollator,
    work: Path,
    tracked: TrackedRun,
) -> tuple[list[dict], float, SpeechEncoder | None]:
    """Train the model; the training curve, the operations of the training, and the speech encoder where that is trained too."""
    corpora, rows, encoder = settings.pretraining, trainable(settings, examples), None
    if settings.calp.train_encoder:
        encoder = speech_encoder(corpora)
        model.encoder = blocks_to_train(settings, encoder, corpora).to(model.device)
        collator = replace(collator, corpora=pd.factorize(examples.table["corpus"])[0])
    curve = train(
        model,
        rows,
        collator,
        factory.schedule(settings.calp),
        work,
        settings.seeds[0],
        held_out=examples.rows("validation"),
        groups=numbered(speakers(examples))[rows] if settings.calp.batch_of == "speakers" else None,
        shares=[] if encoder is None else [(model.encoder, settings.calp.encoder_rate)],
        ids=examples.table["id"].to_numpy(),
        log=partial(tracked.training, objective="calp"),
        title=f"CALP {name}",
    )
    flops = factory.flops(model, collator, rows, settings.calp)
    if encoder is not None:
        take_out(model, encoder)
    return curve, flops, encoder


def track(retrieved: list[dict], tracked: TrackedRun) -> None:
    """Retrieval's figures as metrics of MLflow."""
    for row in retrieved:
        title = f"retrieval/{row['split']}/{row['corpus']}/{row['pair']}"
        tracked.log({f"{title}/{key}": value for key, value in row.items() if isinstance(value, int | float)})


def summary(name: str, metrics: dict) -> str:
    """One line on what came out."""
    epochs, retrieved = len(metrics["curve"]), metrics["retrieval"]
    if not retrieved:
        return f"{name}: {epochs} epochs of CALP, and no held-out utterance to retrieve"
    text = next((row for row in retrieved if row["pair"] == "audio to text" and row["split"] == "test"), retrieved[0])
    return (
        f"CALP {name}: {epochs} epochs; held-out {text['pair']} on {text['corpus']}: {text['recall_at_10']:.1%} in the first 10 of "
        f"{text['n']} (chance {text['chance_recall_at_10']:.1%})"
    )


def contrastive(settings: Visible, language_model, corpora: list[str], channels: int) -> CalmForContrastivePretraining:
    """An untrained model; it holds the language model only where that is trained too."""
    trained = language_model if settings.calp.train_language_model else None
    options = {"projection": settings.calp.projection, "text_pooling": settings.calp.text_vector}
    config = factory.config(settings, language_model, corpora, channels, **options)
    return CalmForContrastivePretraining(config, trained, factory.contrastive(settings.calp))


def pairs(settings: Visible, examples: Examples, language_model, tokenizer) -> PairCollator:
    """Batches of pairs, with T_i computed once if the language model is frozen."""
    texts, section = list(examples.table["text"]), settings.calp
    options = {"augment": factory.augmentation(section.augment), "text_blocks": section.text_blocks}
    if section.audio_negatives != "all":
        options["speakers"] = speakers(examples)
    if section.train_language_model:
        return PairCollator(examples.frames, texts, None, tokenise(tokenizer, texts), tuple(tokenizer.all_special_ids), **options)
    return PairCollator(examples.frames, texts, text_vectors(language_model, tokenizer, texts, section.text_vector), **options)


def speech_encoder(corpora: list[str]) -> SpeechEncoder:
    """The speech encoder that the frames of the corpora come from."""
    about = read_json(paths.frames(corpora[0], ENCODER) / "stats.json")
    return load_speech_encoder(about["encoder"], about["layers"])


def blocks_to_train(settings: Visible, encoder: SpeechEncoder, corpora: list[str]) -> EncoderBlocks:
    """The blocks of an encoder, with the statistics of every corpus and with adapters where the settings ask for them."""
    blocks = EncoderBlocks.of(encoder)
    blocks.normalised_by(*map(np.stack, zip(*(statistics(paths.frames(corpus, ENCODER)) for corpus in corpora), strict=True)))
    if settings.calp.encoder_rank:
        blocks.adapt(settings.calp.encoder_rank)
    return blocks


def take_out(model: CalmForContrastivePretraining, encoder: SpeechEncoder) -> None:
    """Put the trained blocks of a model in the place of those of the encoder; the model then takes frames that these give."""
    blocks, model.encoder = model.encoder, None
    blocks.merge()
    blocks.write_to(encoder)


def speakers(examples: Examples) -> list[str | None]:
    """Corpus and speaker of every row; None where the corpus does not name one."""
    names = zip(examples.table["corpus"], examples.table["speaker"], examples.table["speaker"].notna(), strict=True)
    return [f"{corpus}/{speaker}" if known else None for corpus, speaker, known in names]


def trainable(settings: Visible, examples: Examples) -> np.ndarray:
    """Rows of the training split, without those of one block where the settings drop them."""
    rows = examples.rows("train")
    return rows[examples.frames.blocks[rows] > 1] if settings.calp.short == "drop" else rows


def save(model: CalmForContrastivePretraining, encoder: SpeechEncoder | None, folder: Path) -> None:
    """SpecTran and projections; a language model and a speech encoder that were trained along lie beside them."""
    if encoder is not None:
        encoder.save(folder / WEIGHTS)
        ordinary_permissions(folder / WEIGHTS)
    if model.language_model is not None:
        model.language_model.save_pretrained(folder / "language_model")
        ordinary_permissions(folder / "language_model")
        model.language_model = None
    model.save_pretrained(folder)


@torch.inference_mode()
def retrieve(model: CalmForContrastivePretraining, examples: Examples, collator: PairCollator, most: int = 1000) -> list[dict]:
    """Rank the texts, and the neighbour blocks, of held-out utterances by their likeness to an utterance's audio."""
    model.eval()
    rows = []
    for corpus in examples.table["corpus"].unique():
        for split in ("validation", "test"):
            chosen = np.intersect1d(np.flatnonzero(examples.table["corpus"] == corpus), examples.rows(split))[:most]
            spoken = chosen[collator.has_text[chosen].numpy()]
            if len(spoken) > 1:
                audio = utterance_vectors(model, examples, spoken)
                texts = model.embed_text(text_inputs(model, collator, spoken))
                figures = retrieval(audio, texts.cpu().numpy(), groups=collator.text_index[spoken].numpy())
                rows.append({"corpus": corpus, "split": split, "pair": "audio to text", **figures})
            several = chosen[examples.frames.blocks[chosen] > 1]
            if len(several) > 1:
                anchor, neighbour = (model.embed_audio(part.to(model.device)).cpu().numpy() for part in collator.pairs(several))
                rows.append({"corpus": corpus, "split": split, "pair": "audio to next block", **retrieval(anchor, neighbour)})
    return rows


@torch.inference_mode()
def probes(model: CalmForContrastivePretraining, examples: Examples, when: str, most: int = 800) -> list[dict]:
    """How well a linear probe reads speakers and labels from the tokens of utterances, of every corpus; `when`: before or after CALP.

    The probe of speakers hears the held-out splits, or all where these have too few speakers of several utterances, and is tested on other
    utterances of the same speakers. The probe of labels learns from the training split and is tested on the held-out ones, whose speakers
    are others. At most `most` utterances of a corpus are heard, evenly spread.
    """
    model.eval()
    table, found = examples.table.reset_index(drop=True), []
    for corpus in table["corpus"].unique():
        own = np.flatnonzero(table["corpus"] == corpus)
        own = own[np.unique(np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int))]
        vectors, rows = token_statistics(model, examples, own), table.iloc[own]
        held_out = rows["split"].isin(("validation", "test")).to_numpy()
        unheard = speaker_probe(vectors[held_out], list(rows["speaker"][held_out]))
        results = {"speaker": unheard or speaker_probe(vectors, list(rows["speaker"]))}
        labelled = rows["labels"].notna().to_numpy()
        if labelled.any():
            names = sorted({label for labels in rows["labels"][labelled] for label in labels})
            targets = np.array([[name in labels for name in names] for labels in rows["labels"][labelled]])
            results["labels"] = label_probe(vectors[labelled], targets, ~held_out[labelled])
        found += [{"corpus": corpus, "of": of, "when": when, **result} for of, result in results.items() if result]
    return found


@torch.inference_mode()
def token_statistics(model: CalmForContrastivePretraining, examples: Examples, rows: np.ndarray) -> np.ndarray:
    """Mean and deviation of an utterance's tokens, as the transformer gets them: (rows, 2 x embedding width)."""
    vectors = []
    for row in rows:
        tokens = model.spectran(torch.from_numpy(examples.frames.blocks_of(row)).to(model.device))
        vectors.append(torch.cat([tokens.mean(0), tokens.std(0, correction=0)]).cpu().numpy())
    return np.stack(vectors)


@torch.inference_mode()
def embedded(model: CalmForContrastivePretraining, examples: Examples, collator: PairCollator, most: int = 400) -> pa.Table:
    """Vectors of held-out utterances in the shared space: row, audio and text (null where there is no text), each (projection,)."""
    model.eval()
    held_out = np.flatnonzero(examples.table["split"].isin(("validation", "test")))
    chosen = held_out[np.unique(np.linspace(0, len(held_out) - 1, min(most, len(held_out))).round().astype(int))]
    audio, texts = utterance_vectors(model, examples, chosen), model.embed_text(text_inputs(model, collator, chosen)).cpu().numpy()
    spoken = [text if has else None for text, has in zip(texts.astype(np.float16), collator.has_text[chosen].tolist(), strict=True)]
    half = pa.list_(pa.float16())
    return pa.table({"row": chosen, "audio": pa.array(list(audio.astype(np.float16)), half), "text": pa.array(spoken, half)})


def space(examples: Examples, before: pa.Table, after: pa.Table) -> pa.Table:
    """What CALP made of the shared space: id, corpus, split, and audio_before, text_before, audio_after, text_after."""
    about = examples.table[["id", "corpus", "split"]].iloc[before["row"].to_numpy()].reset_index(drop=True)
    table = pa.Table.from_pandas(about, preserve_index=False)
    for name, vectors in (("before", before), ("after", after)):
        for modality in ("audio", "text"):
            table = table.append_column(f"{modality}_{name}", vectors[modality])
    return table


def text_inputs(model: CalmForContrastivePretraining, collator: PairCollator, rows: np.ndarray) -> torch.Tensor:
    """T_i of the rows, from the language model where it was trained along."""
    if model.language_model is None:
        return collator.text_vectors[rows].to(model.device)
    batch = collator(rows)
    inputs = {key: batch[key].to(model.device) for key in ("input_ids", "attention_mask")}
    return pool_text(model.language_model, inputs, batch["words"].to(model.device), model.config.text_pooling)


def utterance_vectors(model: CalmForContrastivePretraining, examples: Examples, rows: np.ndarray) -> np.ndarray:
    """Mean of the normalised vectors of an utterance's blocks in the shared space, (rows, projection)."""
    vectors = []
    for row in rows:
        blocks = torch.from_numpy(examples.frames.blocks_of(row)).to(model.device)
        vectors.append(torch.nn.functional.normalize(model.embed_audio(blocks), dim=-1).mean(0).cpu().numpy())
    return np.stack(vectors)
