"""What a user would pick instead of CALM: chance, and functionals of an utterance with logistic regression.

Two kinds of functionals: openSMILE's eGeMAPSv02 (88 of them), and simple ones of the log-mel that CALM itself hears.
"""

import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from calm.audio.decoding import read_audio
from calm.audio.logmel import trim
from calm.evaluation import metrics

SAMPLE_RATE = 16000  # what eGeMAPS is computed at
PART = 1024  # utterances whose functionals are kept at once for a stopped extraction
CEPSTRUM = 20  # coefficients of the DCT over the mel bands
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
QUIET_DB = 30  # frames before and after the speech that are so far below the loudest count for nothing
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # C of the logistic regression that are tried
SURE = 1e-7  # probabilities are kept so far from 0 and 1: their log-odds stay finite


@dataclass
class Extracted:
    """Functionals of many utterances: a row of NaN where there are none, and why, by row."""

    values: np.ndarray  # (utterances, functionals) float32
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def good(self) -> np.ndarray:
        """Which utterances have functionals: bool (utterances,)."""
        return np.isfinite(self.values).all(axis=1)


@dataclass
class Fitted:
    """A baseline's answer for every utterance, and how it came about."""

    probabilities: np.ndarray  # (utterances, classes)
    strength: float | None = None  # the C that was chosen
    validation_auc: dict[float, float] = field(default_factory=dict)  # of every C that was tried
    without_features: int = 0  # utterances that got the training prior
    unconverged: int = 0  # regressions that reached the limit of iterations
    constant: list[int] = field(default_factory=list)  # classes that all or none of the training utterances have: the prior


def prior(targets: np.ndarray) -> np.ndarray:
    """Share of utterances that have each class, (classes,), from bool (utterances, classes)."""
    return targets.mean(axis=0)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)) as float32, of probabilities cut to [1e-7, 1 - 1e-7]: what a head's logit is."""
    cut = np.clip(np.asarray(probabilities, np.float64), SURE, 1 - SURE)
    return (np.log(cut) - np.log1p(-cut)).astype(np.float32)


def egemaps(
    segments: Sequence[tuple[str, float | None, float | None]],
    workers: int | None = None,
    work: Path | None = None,
    title: str = "eGeMAPS",
) -> Extracted:
    """eGeMAPSv02 functionals, (utterances, 88), one process a core (or `workers`); a file that fails costs its row alone.

    Args:
        segments: path, start and end in seconds of every utterance.
        work: folder for finished parts, from which a stopped extraction of the same segments goes on.
    """
    import joblib
    from tqdm import tqdm

    processes = max(1, min(workers or joblib.cpu_count(), len(segments) // 8))  # starting a process costs seconds
    extracted = Extracted(np.full((len(segments), len(_smile().feature_names)), np.nan, np.float32))
    with tqdm(desc=title, total=len(segments), unit="utt") as bar:
        for first in range(0, len(segments), PART):
            part = work / f"egemaps-{first}.npz" if work else None
            if part is None or not part.exists():
                jobs = (joblib.delayed(_egemaps)(*segment) for segment in segments[first : first + PART])
                for row, found in enumerate(joblib.Parallel(processes, return_as="generator")(jobs), first):
                    if isinstance(found, str):
                        extracted.failed[row] = found
                    else:
                        extracted.values[row] = found
                    bar.update()
                if part:
                    _keep(extracted, first, part)
            else:
                with np.load(part) as kept:
                    extracted.values[first : first + PART] = kept["values"]
                    extracted.failed |= dict(zip(kept["rows"].tolist(), kept["reasons"].tolist(), strict=True))
                bar.update(len(segments[first : first + PART]))
    return extracted


def _keep(extracted: Extracted, first: int, part: Path) -> None:
    """Write the rows of one part, whole or not at all."""
    failed = {row: reason for row, reason in extracted.failed.items() if row >= first}
    partial = part.with_name(f".{part.name}")
    values, rows = extracted.values[first : first + PART], np.array(list(failed), np.int64)
    np.savez(partial, values=values, rows=rows, reasons=np.array(list(failed.values()), str))
    partial.replace(part)


def _egemaps(path: str, start: float | None, end: float | None) -> np.ndarray | str:
    """Functionals (88,) of one utterance, or why there are none."""
    try:
        samples = read_audio(path, start, end, SAMPLE_RATE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a segment that is too short comes back as NaN
            # openSMILE takes 16-bit samples, and a peak above 1 would wrap around.
            values = _smile().process_signal(np.clip(samples, -1, 1 - 2**-15), SAMPLE_RATE).to_numpy(np.float32)[0]
    except Exception as error:  # whatever one file provokes in a decoder or in openSMILE is named and must not stop the others
        return f"{type(error).__name__}: {error}"
    return values if np.isfinite(values).all() else "openSMILE gives no number: the audio is too short or empty"


@functools.cache
def _smile():
    import opensmile

    return opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals)


def logmel_functionals(folder: Path, ids: Sequence[str], title: str = "log-mel functionals") -> Extracted:
    """Functionals of the log-mel in the shards `part-*.parquet` of a folder, in the order of `ids`; see `functionals`.

    Raises FileNotFoundError where the folder has no shard.
    """
    from tqdm import tqdm

    rows, found = {id: row for row, id in enumerate(ids)}, {}
    with tqdm(desc=title, total=len(ids), unit="utt") as bar:
        for id, logmel in _read(folder):
            if id in rows:
                found[rows[id]] = functionals(logmel) if logmel.size and np.isfinite(logmel).all() else None
                bar.update()
    width = next((len(values) for values in found.values() if values is not None), 1)
    values, failed = np.full((len(ids), width), np.nan, np.float32), {}
    for row in rows.values():
        if found.get(row) is not None:
            values[row] = found[row]
        if not np.isfinite(values[row]).all():
            values[row] = np.nan
            failed[row] = "its log-mel is empty or has values that are no numbers" if row in found else "it has no log-mel"
    return Extracted(values, failed)


def _read(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Id and log-mel (frames, mels) float32 of every utterance, a few at a time in memory."""
    import pyarrow.parquet as pq

    shards = sorted(Path(folder).glob("part-*.parquet"))
    if not shards:
        raise FileNotFoundError(f"{folder} holds no part-*.parquet with log-mel features: run the stage features first")
    for shard in shards:
        for batch in pq.ParquetFile(shard).iter_batches(64, columns=["id", "frames", "features"]):
            offsets, values = batch["features"].offsets.to_numpy(), batch["features"].values.to_numpy(zero_copy_only=False)
            for id, frames, first, last in zip(
                batch["id"].to_pylist(), batch["frames"].to_pylist(), offsets[:-1], offsets[1:], strict=True
            ):
                yield id, values[first:last].reshape(frames, -1 if frames else 0).astype(np.float32)


def functionals(logmel: np.ndarray) -> np.ndarray:
    """Simple functionals of log-mel (frames, mels): (9 * (mels + cepstrum),) float32.

    Over the frames from the first to the last loud one, of every band and of the first 20 cepstral coefficients (DCT over the
    bands): mean, spread, five quantiles, and the mean size and the spread of the slope from frame to frame.
    """
    from scipy.fft import dct

    spoken = trim(logmel, QUIET_DB)
    cepstrum = dct(spoken, axis=1, norm="ortho")[:, :CEPSTRUM]
    return np.concatenate([part for track in (spoken, cepstrum) for part in _over_time(track)]).astype(np.float32)


def _over_time(track: np.ndarray) -> list[np.ndarray]:
    """Nine functionals of (frames, values), each (values,)."""
    ordered = np.sort(track, axis=0)
    places = np.rint(np.array(QUANTILES) * (len(track) - 1)).astype(int)
    slope = np.diff(track, axis=0) if len(track) > 1 else np.zeros_like(track)
    return [track.mean(0), track.std(0), *ordered[places], np.abs(slope).mean(0), slope.std(0)]


def regress(
    features: Extracted,
    targets: np.ndarray,
    train: np.ndarray,
    validation: np.ndarray,
    one_hot: bool,
    class_weight: str | None = "balanced",
    strengths: Sequence[float] = STRENGTHS,
) -> Fitted:
    """Logistic regression on standardised functionals: multinomial for one-hot classes, else one for each class.

    Of the strengths C, the one of the best mean ROC AUC on validation is taken, the smallest of equals (the middle one where
    validation has no class with a positive and a negative): AUC serves both kinds of task, needs no threshold, and on the few
    speakers of a validation set varies less than an accuracy does. Utterances without functionals are not trained on and get
    the training prior.

    Args:
        targets: bool (utterances, classes).
        train, validation: bool (utterances,).
        class_weight: "balanced" weighs classes by their rarity, which favours weighted accuracy; None does not.
    """
    base, good = prior(targets[train]), features.good
    fitted = Fitted(np.tile(base, (len(targets), 1)), without_features=int((~good).sum()))
    fitted.constant = np.flatnonzero(targets[train & good].all(axis=0) | ~targets[train & good].any(axis=0)).tolist()
    learned = [column for column in range(targets.shape[1]) if column not in fitted.constant]
    if not learned:
        return fitted
    inputs = _standardised(features.values, train & good)
    # One multinomial regression answers for all classes, separate ones for a class each.
    models = [(targets.argmax(axis=1), learned)] if one_hot else [(targets[:, column], [column]) for column in learned]
    models = [(_regression(class_weight), answers, columns) for answers, columns in models]
    if not _can_choose(targets[validation]):
        strengths = sorted(strengths)[len(strengths) // 2 :][:1]
    best, answered = -np.inf, np.flatnonzero(good)
    for strength in sorted(strengths):
        guess = np.tile(base, (len(targets), 1))
        for model, answers, columns in models:
            fitted.unconverged += _fit(model.set_params(C=strength), inputs[train & good], answers[train & good])
            guess[np.ix_(answered, columns)] = model.predict_proba(inputs[good])[:, -len(columns) :]
        score = metrics.auc_macro(targets[validation], guess[validation])
        fitted.validation_auc[strength] = score
        if fitted.strength is None or score > best:
            best, fitted.strength, fitted.probabilities = score, strength, guess
    return fitted


def _can_choose(targets: np.ndarray) -> bool:
    """Whether some class has a positive and a negative."""
    return bool((targets.any(axis=0) & (~targets).any(axis=0)).any())


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Zero mean and unit spread on the training utterances."""
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit(values[train].astype(np.float64)).transform(values.astype(np.float64))


def _regression(class_weight: str | None):
    from sklearn.linear_model import LogisticRegression

    # Strengths are tried from weak to strong, each from the weights of the one before.
    return LogisticRegression(class_weight=class_weight, max_iter=300, tol=1e-3, warm_start=True)


def _fit(model, inputs: np.ndarray, answers: np.ndarray) -> bool:
    """Fit; whether it stopped at the limit of iterations."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs, answers)
    return int(np.max(model.n_iter_)) >= model.max_iter
