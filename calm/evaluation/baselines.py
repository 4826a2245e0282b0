"""Baselines to compare CALM with: chance, and logistic regression on functionals of each utterance.

There are three kinds of functionals: the 88 of openSMILE's eGeMAPSv02, simple ones of the log-mel, and those of a speech encoder's states,
which CALM's heads may see too.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calm.array_types import Bools, Floats, Floats32, Floats64, Ints
from calm.audio.decoding import read_audio
from calm.audio.functionals import functionals as frame_functionals
from calm.audio.logmel import trim
from calm.evaluation.regression import Linear, fit_logistic
from calm.processes import end_with_parent
from calm.storage import parquet_batches

if TYPE_CHECKING:
    import opensmile

SAMPLE_RATE = 16000  # Hz, for eGeMAPS
PART = 1024  # utterances whose functionals are saved together, so that a stopped extraction can continue
CEPSTRUM = 20  # coefficients of the DCT over the mel bands
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
QUIET_DB = 30  # leading and trailing frames this far below the loudest one are trimmed
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # values of C of the logistic regression to try
KNOWN = "_known"  # suffix of baselines that know the tested speakers, see `of_known_speakers`
MARGIN = 1e-7  # distance of probabilities from 0 and 1 that keeps their log-odds finite


@dataclass
class Extracted:
    """Functionals of many utterances. An utterance without functionals has a row of NaN and a reason in `failed`."""

    values: Floats32  # (utterances, functionals) float32
    failed: dict[int, str] = field(default_factory=dict)  # row -> reason
    copies: list[Floats32] = field(default_factory=list)  # as `values`, of changed copies to train on; NaN where there is none

    @property
    def good(self) -> Bools:
        """Which utterances have functionals: bool (utterances,)."""
        good: Bools = np.all(np.isfinite(self.values), axis=1)
        return good


@dataclass
class Fitted:
    """A baseline's probabilities for every utterance, and how it was fitted."""

    probabilities: Floats64  # (utterances, classes)
    strength: float | None = None  # the chosen C; None if there was nothing to learn
    validation_auc: dict[float, float] = field(default_factory=dict)  # by C
    without_features: int = 0  # utterances that got the training prior
    unconverged: int = 0  # regressions that reached the limit of iterations
    constant: list[int] = field(default_factory=list)  # classes that all or none of the training utterances have; they keep the prior


def prior(targets: Bools) -> Floats64:
    """Share of utterances with each class, (classes,), from bool (utterances, classes)."""
    share: Floats64 = targets.mean(axis=0)
    return share


def log_odds(probabilities: Floats) -> Floats32:
    """Logits ln(p / (1 - p)) as float32, of probabilities clipped to [1e-7, 1 - 1e-7]."""
    clipped = np.clip(np.asarray(probabilities, np.float64), MARGIN, 1 - MARGIN)
    return (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)


def egemaps(
    segments: Sequence[tuple[str, float | None, float | None]],
    workers: int | None = None,
    work: Path | None = None,
    title: str = "eGeMAPS",
) -> Extracted:
    """eGeMAPSv02 functionals, (utterances, 88). A file that cannot be read loses only its own row.

    Args:
        segments: path, start and end in seconds of every utterance.
        workers: processes; None: one per core.
        work: folder for finished parts, from which a stopped extraction of the same segments continues.
        title: of the progress bar.
    """
    import joblib
    from tqdm import tqdm

    processes = max(1, min(workers or joblib.cpu_count(), len(segments) // 8))  # starting a process costs seconds
    extracted = Extracted(np.full((len(segments), len(_smile().feature_names)), np.nan, np.float32))
    with tqdm(desc=title, total=len(segments), unit="utt") as bar:
        for first in range(0, len(segments), PART):
            part = work / f"egemaps-{first}.npz" if work else None
            if part is None or not part.exists():
                jobs = (joblib.delayed(_egemaps if processes == 1 else _in_worker)(*segment) for segment in segments[first : first + PART])
                for row, values in enumerate(joblib.Parallel(processes, return_as="generator")(jobs), first):
                    if isinstance(values, str):
                        extracted.failed[row] = values
                    else:
                        extracted.values[row] = values
                    bar.update()
                if part:
                    _save_part(extracted, first, part)
            else:
                with np.load(part) as saved:
                    extracted.values[first : first + PART] = saved["values"]
                    extracted.failed |= dict(zip(saved["rows"].tolist(), saved["reasons"].tolist(), strict=True))
                bar.update(len(segments[first : first + PART]))
    return extracted


def _save_part(extracted: Extracted, first: int, part: Path) -> None:
    """Write the rows of one part, under a temporary name first."""
    failed = {row: reason for row, reason in extracted.failed.items() if row >= first}
    partial = part.with_name(f".{part.name}")
    values, rows = extracted.values[first : first + PART], np.array(list(failed), np.int64)
    np.savez(partial, values=values, rows=rows, reasons=np.array(list(failed.values()), str))
    partial.replace(part)


def _in_worker(path: str, start: float | None, end: float | None) -> Floats32 | str:
    """`_egemaps` in a process of joblib's."""
    end_with_parent()
    return _egemaps(path, start, end)


def _egemaps(path: str, start: float | None, end: float | None) -> Floats32 | str:
    """Functionals (88,) of one utterance, or the reason why there are none."""
    try:
        samples = read_audio(path, start, end, SAMPLE_RATE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a segment that is too short gives NaN
            # openSMILE converts to 16-bit samples, where a peak above 1 would wrap around.
            values = _smile().process_signal(np.clip(samples, -1, 1 - 2**-15), SAMPLE_RATE).to_numpy(np.float32)[0]
    except Exception as error:  # decoders and openSMILE raise many kinds, and one bad file must not stop the others
        return f"{type(error).__name__}: {error}"
    return values if np.isfinite(values).all() else "openSMILE gives no functionals: the audio is too short or empty"


@functools.cache
def _smile() -> "opensmile.Smile":
    import opensmile

    return opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals)


def logmel_functionals(folder: Path, ids: Sequence[str], title: str = "log-mel functionals") -> Extracted:
    """`functionals` of the log-mel in the shards `part-*.parquet` of a folder, in the order of `ids`.

    Raises FileNotFoundError if the folder has no shard.
    """
    return _from_shards(folder, ids, functionals, "log-mel", title)


def encoder_functionals(folder: Path, ids: Sequence[str]) -> Extracted:
    """`calm.audio.functionals` of a speech encoder's states in the shards of a folder, in the order of `ids`.

    Copies at other speeds, in the folders `speed-...` below it, are trained on too. Raises FileNotFoundError if there is no shard.
    """
    extracted = _from_shards(folder, ids, frame_functionals, "encoder", "encoder functionals")
    for speed in sorted(Path(folder).glob("speed-*")):
        extracted.copies.append(_from_shards(speed, ids, frame_functionals, "encoder", speed.name).values)
    return extracted


def of_known_speakers(extracted: Extracted, speakers: Sequence[str | None]) -> Extracted:
    """Functionals standardised by the mean and deviation of those of the same speaker, without labels; copies by the speaker's originals.

    Args:
        speakers: of every utterance; those whose speaker is not known count as one speaker.
    """
    names, good = np.array([speaker or "" for speaker in speakers], dtype=object), extracted.good
    values, copies = extracted.values.copy(), [copy.copy() for copy in extracted.copies]
    for name in set(names[good]):
        own = names == name
        heard = extracted.values[own & good].astype(np.float64)
        mean, deviation = heard.mean(0), heard.std(0)
        deviation = np.where(deviation > 1e-6, deviation, 1)
        for array in (values, *copies):
            array[own] = (array[own] - mean) / deviation
    return Extracted(values, extracted.failed, copies)


def _from_shards(folder: Path, ids: Sequence[str], compute: Callable[[Floats32], Floats32], kind: str, title: str) -> Extracted:
    """What `compute` gives for the frames (frames, channels) of each id, in the order of `ids`."""
    from tqdm import tqdm

    rows, by_row = {id: row for row, id in enumerate(ids)}, {}
    with tqdm(desc=title, total=len(ids), unit="utt", delay=2) as bar:
        for id, frames in _read_frames(folder, kind):
            if id in rows:
                by_row[rows[id]] = compute(frames) if frames.size and np.isfinite(frames).all() else None
                bar.update()
    width = next((len(values) for values in by_row.values() if values is not None), 1)
    values, failed = np.full((len(ids), width), np.nan, np.float32), {}
    for row in rows.values():
        if by_row.get(row) is not None:
            values[row] = by_row[row]
        if not np.isfinite(values[row]).all():
            values[row] = np.nan
            failed[row] = f"its {kind} frames are empty or have NaN or infinite values" if row in by_row else f"it has no {kind} frames"
    return Extracted(values, failed)


def _read_frames(folder: Path, kind: str) -> Iterator[tuple[str, Floats32]]:
    """Id and frames (frames, channels) float32 of every utterance; only a few are in memory at a time."""
    shards = sorted(Path(folder).glob("part-*.parquet"))
    if not shards:
        raise FileNotFoundError(f"{folder} has no {kind} frames (part-*.parquet): run the stage features first")
    for shard in shards:
        for batch in parquet_batches(shard, 64, ["id", "frames", "features"]):
            offsets, values = batch["features"].offsets.to_numpy(), batch["features"].values.to_numpy(zero_copy_only=False)
            for id, frames, first, last in zip(
                batch["id"].to_pylist(), batch["frames"].to_pylist(), offsets[:-1], offsets[1:], strict=True
            ):
                yield id, values[first:last].reshape(frames, -1 if frames else 0).astype(np.float32)


def functionals(logmel: Floats32) -> Floats32:
    """Simple functionals of log-mel (frames, mels): (9 * (mels + CEPSTRUM),) float32.

    For every band and for the first 20 cepstral coefficients (DCT over the bands), over the frames from the first to the last loud
    one: mean, standard deviation, five quantiles, and the mean absolute value and standard deviation of the frame-to-frame slope.
    """
    from scipy.fft import dct

    speech = trim(logmel, QUIET_DB)
    cepstrum = dct(speech, axis=1, norm="ortho")[:, :CEPSTRUM]
    return np.concatenate([statistic for track in (speech, cepstrum) for statistic in _over_time(track)]).astype(np.float32)


def _over_time(track: Floats) -> list[Floats]:
    """Nine functionals of (frames, values), each (values,)."""
    ordered = np.sort(track, axis=0)
    ranks = np.rint(np.array(QUANTILES) * (len(track) - 1)).astype(int)
    slope = np.diff(track, axis=0) if len(track) > 1 else np.zeros_like(track)
    return [track.mean(0), track.std(0), *ordered[ranks], np.abs(slope).mean(0), slope.std(0)]


def regress(
    features: Extracted,
    targets: Bools,
    train: Bools,
    validation: Bools,
    one_hot: bool,
    class_weight: str | None = "balanced",
    strengths: Sequence[float] = STRENGTHS,
    refit: bool = False,
) -> Fitted:
    """Logistic regression on standardised functionals: multinomial for one-hot classes, else one regression per class.

    C is the value with the best mean ROC AUC on validation, and the smallest one if several are equal. If no class has both a
    positive and a negative there, C is the middle one. AUC serves both kinds of task, needs no threshold, and varies less than an
    accuracy on the few speakers of a validation split. Utterances without functionals are not trained on and get the training prior.

    Args:
        targets: bool (utterances, classes).
        train, validation: bool (utterances,).
        one_hot: every utterance has exactly one class.
        class_weight: "balanced" weights classes by their rarity, which favours weighted accuracy; None does not.
        strengths: values of C to try.
        refit: utterances in neither split are answered by a regression with the chosen C that is fitted on both.
    """
    base, good = prior(targets[train]), features.good
    fitted = Fitted(np.tile(base, (len(targets), 1)), without_features=int((~good).sum()))
    fitted.constant = np.flatnonzero(targets[train & good].all(axis=0) | ~targets[train & good].any(axis=0)).tolist()
    if len(fitted.constant) == targets.shape[1]:
        return fitted
    inputs, heard, sources = _standardised(features, train)
    usable, order = _with_both(targets[validation]), sorted(strengths)
    if not usable.any():
        order = order[len(order) // 2 :][:1]
    best, with_features, linear = -np.inf, np.flatnonzero(good), None
    for strength in order:  # in ascending order, each starts from the weights before
        linear = fit_logistic(heard, targets[sources], one_hot, strength, class_weight, linear)
        fitted.unconverged += linear.unconverged
        probabilities = _probabilities(linear, inputs, with_features, base, fitted.constant)
        auc = _mean_auc(targets[validation][:, usable], probabilities[validation][:, usable])
        fitted.validation_auc[strength] = auc
        if fitted.strength is None or auc > best:
            best, fitted.strength, fitted.probabilities = auc, strength, probabilities
    if refit and fitted.strength is not None:
        _, heard, sources = _standardised(features, train | validation, scale=train)
        linear = fit_logistic(heard, targets[sources], one_hot, fitted.strength, class_weight)
        elsewhere = ~(train | validation)
        again = _probabilities(linear, inputs, with_features, base, fitted.constant)
        fitted.probabilities = np.where(elsewhere[:, None], again, fitted.probabilities)
    return fitted


def _probabilities(linear: Linear, inputs: Floats64, good: Ints, base: Floats64, constant: list[int]) -> Floats64:
    """Probabilities of all utterances; rows without features, and constant classes, keep the prior."""
    probabilities = np.tile(base, (len(inputs), 1))
    learned = np.setdiff1d(np.arange(len(base)), constant)
    probabilities[np.ix_(good, learned)] = linear.probabilities(inputs[good])[:, learned]
    return probabilities


def _with_both(targets: Bools) -> Bools:
    """Classes with at least one positive and one negative, which an AUC needs: bool (classes,)."""
    both: Bools = np.any(targets, axis=0) & np.any(~targets, axis=0)
    return both


def _mean_auc(targets: Bools, probabilities: Floats64) -> float:
    """Mean ROC AUC over the classes; NaN without classes."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(targets, probabilities, average="macro")) if targets.size else float("nan")


def _standardised(features: Extracted, train: Bools, scale: Bools | None = None) -> tuple[Floats64, Floats64, Ints]:
    """Functionals, scaled to zero mean and unit variance on the training utterances, or on those of `scale`.

    Returns the values of all utterances, those to train on with the copies after them, and the utterance that each of these is of.
    """
    from sklearn.preprocessing import StandardScaler

    rows = np.flatnonzero(train & features.good)
    fitted_on = rows if scale is None else np.flatnonzero(scale & features.good)
    scaler = StandardScaler().fit(features.values[fitted_on].astype(np.float64))
    inputs = scaler.transform(features.values.astype(np.float64))
    heard, sources = [inputs[rows]], [rows]
    for copies in features.copies:
        there = rows[np.isfinite(copies[rows]).all(axis=1)]
        heard.append(scaler.transform(copies[there].astype(np.float64)))
        sources.append(there)
    return inputs, np.concatenate(heard), np.concatenate(sources)
