"""What MLflow serves: a released model behind `predict` (models from code: MLflow keeps this file beside the weights).

Input: a row an utterance, `audio` (a file's bytes in base64) and `text`; either may be missing, as the model allows it. Output: the
probability of each class, as `calm predict` gives it of one piece of a recording.
"""

import base64
import tempfile

import mlflow
import numpy as np
import pandas as pd


class Served(mlflow.pyfunc.PythonModel):
    """Loads the model once, on the GPU where there is one."""

    def load_context(self, context) -> None:
        from calm.inference import loading

        self.predictor = loading.load_classifier(context.artifacts["model"])

    def predict(self, context, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Probabilities by class. Raises ValueError that names the row which cannot be used."""
        given = model_input.reindex(columns=["audio", "text"])
        texts = [text if isinstance(text, str) else None for text in given["text"]]
        clips = [self._read(row, audio) if isinstance(audio, str) else None for row, audio in enumerate(given["audio"])]
        for row, (clip, text) in enumerate(zip(clips, texts, strict=True)):
            if clip is None and text is None:
                raise ValueError(f"row {row} has neither audio nor text")
        # One by one: what else is asked for changes no answer, as padding in a batch would in the sixth place.
        answers = [self.predictor([clip], [text])[0] for clip, text in zip(clips, texts, strict=True)]
        return pd.DataFrame(answers, columns=self.predictor.classes)

    def _read(self, row: int, audio: str) -> np.ndarray:
        """Samples of a file in base64."""
        from calm.audio.decoding import AudioError, read_audio
        from calm.audio.pauses import Pauses

        longest = Pauses.longer_than
        with tempfile.NamedTemporaryFile() as written:
            try:
                written.write(base64.b64decode(audio, validate=True))
                written.flush()
                samples = read_audio(written.name, sample_rate=self.predictor.sample_rate)
            except AudioError as error:
                raise ValueError(f"row {row}: {str(error).replace(written.name, 'its audio')}") from None
            except ValueError:
                raise ValueError(f"row {row}: audio is not in base64") from None
        if len(samples) > longest * self.predictor.sample_rate:
            raise ValueError(f"row {row}: its audio is longer than {longest:g} s: cut it at its pauses, as `calm predict` does")
        return samples


mlflow.models.set_model(Served())
