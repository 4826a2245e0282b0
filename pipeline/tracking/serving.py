"""The model that MLflow serves. MLflow stores this file beside the weights ("models from code").

Input: a row per utterance with `audio` (a file's bytes, in base64 or as they are) and `text`; either may be missing if the model allows
it. A name in the column `speaker` says that the model first hears all of the request's audio with this name, without labels, and so knows
the speaker (`Classifier.for_speaker`); nothing is kept for the next request. The model has no signature of inputs, with which MLflow
would leave out a misspelt column without a word.

Output: the probability of each class, as `calm predict` gives it for a piece of a recording, the mean over the pieces if it is longer than
the model learned from; the classes `decided` (with commas between them), and by which `decision`: thresholds "tuned" on validation, "0.5",
or "argmax". Where nobody speaks, there are no probabilities, and both are "no speech". What cannot be used is answered by one sentence,
without a stack trace.
"""

import base64
import logging
import tempfile

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

logger = logging.getLogger(__name__)

COLUMNS = ("audio", "text", "speaker")


class ServingModel(mlflow.pyfunc.PythonModel):
    """A released model behind `predict`; loaded once, on the GPU if there is one."""

    def load_context(self, context) -> None:
        from calm.inference.loading import load_classifier

        self.classifier = load_classifier(context.artifacts["model"])

    def predict(self, context, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Probabilities by class, and what is decided. Raises MlflowException that names the first row that cannot be used."""
        try:
            return self._answers(model_input)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        except Exception:
            logger.exception("a request could not be answered")  # here, and not in the answer, which anybody may read
            raise MlflowException("the model failed: its server's log says why") from None

    def _answers(self, model_input: pd.DataFrame) -> pd.DataFrame:
        from calm.inference.recordings import NO_SPEECH, classify_samples

        if unknown := [str(name) for name in model_input.columns if name not in COLUMNS]:
            raise ValueError(f"there is no column {', '.join(unknown)}: the columns are {', '.join(COLUMNS)}")
        rows = model_input.reindex(columns=list(COLUMNS)).astype(object)
        texts = [_string(row, "text", text) for row, text in enumerate(rows["text"])]
        speakers = [_string(row, "speaker", name) for row, name in enumerate(rows["speaker"])]
        clips = [None if _is_missing(audio) else self._read(row, audio) for row, audio in enumerate(rows["audio"])]
        for row, (clip, text) in enumerate(zip(clips, texts, strict=True)):
            if clip is None and text is None:
                raise ValueError(f"row {row} has neither audio nor text")
        known = self._known(speakers, clips)
        # Row by row, so that no other row changes an answer: padding in a batch would change the sixth decimal place.
        answers = [
            self.classifier(None, [text])[0] if clip is None else classify_samples(known.get(speaker, self.classifier), clip, text)
            for clip, text, speaker in zip(clips, texts, speakers, strict=True)
        ]
        silent, nothing = [answer is None for answer in answers], np.full(len(self.classifier.classes), np.nan)
        probabilities = [nothing if answer is None else answer for answer in answers]
        table = pd.DataFrame(probabilities, columns=self.classifier.classes)
        decided = [", ".join(self.classifier.decided(row)) for row in probabilities]
        table["decided"] = [NO_SPEECH if is_silent else names for names, is_silent in zip(decided, silent, strict=True)]
        table["decision"] = [NO_SPEECH if is_silent else self.classifier.decision for is_silent in silent]
        return table.astype(object).where(table.notna(), None) if any(silent) else table  # None: JSON has no NaN

    def _known(self, speakers: list[str | None], clips: list[np.ndarray | None]) -> dict:
        """The model for each speaker who is heard in a request."""
        from calm.inference.recordings import heard

        clips_of: dict[str, list[np.ndarray]] = {}
        for clip, name in zip(clips, speakers, strict=True):
            if name and clip is not None and heard(clip, self.classifier.sample_rate):
                clips_of.setdefault(name, []).append(clip)
        return {name: self.classifier.for_speaker(own) for name, own in clips_of.items()}

    def _read(self, row: int, audio: object) -> np.ndarray:
        """Samples of a file. Raises ValueError that names the row."""
        from calm.audio.decoding import AudioError, read_audio
        from calm.audio.pauses import Pauses

        longest, content = Pauses.longer_than, _bytes(row, audio)
        with tempfile.NamedTemporaryFile() as file:
            try:
                file.write(content)
                file.flush()
                samples = read_audio(file.name, sample_rate=self.classifier.sample_rate)
            except AudioError as error:
                raise ValueError(f"row {row}: {str(error).replace(file.name, 'its audio')}") from None
        if len(samples) > longest * self.classifier.sample_rate:
            raise ValueError(f"row {row}: its audio is longer than {longest:g} s: cut it at its pauses first, as `calm predict` does")
        return samples


def _is_missing(value: object) -> bool:
    return value is None or isinstance(value, float) and np.isnan(value)


def _string(row: int, column: str, value: object) -> str | None:
    if _is_missing(value) or isinstance(value, str):
        return value if isinstance(value, str) else None
    raise ValueError(f"row {row}: {column} is {type(value).__name__}, and must be a string")


def _bytes(row: int, audio: object) -> bytes:
    """A file's bytes, which may be in base64, also with line ends (MIME) and in a data URL."""
    if isinstance(audio, bytes | bytearray | memoryview):
        return bytes(audio)
    try:
        encoded = audio.partition(";base64,")[2] if audio.startswith("data:") else audio
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (ValueError, AttributeError):
        raise ValueError(f"row {row}: audio is not in base64") from None


mlflow.models.set_model(ServingModel())
